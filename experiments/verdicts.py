"""Runs the command of experiments.checks.verdicts."""

from experiments.checks import verdicts

if __name__ == '__main__':
  verdicts.main()
