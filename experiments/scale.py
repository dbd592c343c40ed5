"""Runs the command of experiments.checks.scale."""

from experiments.checks import scale

if __name__ == '__main__':
  scale.main()
