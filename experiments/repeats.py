"""Runs the command of experiments.paper.repeats."""

from experiments.paper import repeats

if __name__ == '__main__':
  repeats.main()
