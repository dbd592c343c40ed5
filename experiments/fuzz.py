"""Runs the command of experiments.checks.fuzz."""

from experiments.checks import fuzz

if __name__ == '__main__':
  fuzz.main()
