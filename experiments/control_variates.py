"""Runs the command of experiments.checks.control_variates."""

from experiments.checks import control_variates

if __name__ == '__main__':
  control_variates.main()
