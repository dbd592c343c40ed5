"""Runs the command of experiments.paper.study."""

from experiments.paper import study

if __name__ == '__main__':
  study.main()
