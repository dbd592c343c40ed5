"""Runs the command of experiments.checks.kills."""

from experiments.checks import kills

if __name__ == '__main__':
  kills.main()
