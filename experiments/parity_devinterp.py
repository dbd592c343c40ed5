"""Runs the command of experiments.checks.parity_devinterp."""

from experiments.checks import parity_devinterp

if __name__ == '__main__':
  parity_devinterp.main()
