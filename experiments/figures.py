"""Runs the command of experiments.paper.drawing."""

from experiments.paper import drawing

if __name__ == '__main__':
  drawing.main()
