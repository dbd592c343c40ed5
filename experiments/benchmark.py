"""Runs the command of experiments.checks.benchmark."""

from experiments.checks import benchmark

if __name__ == '__main__':
  benchmark.main()
