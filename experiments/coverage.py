"""Runs the command of experiments.checks.coverage."""

from experiments.checks import coverage

if __name__ == '__main__':
  coverage.main()
