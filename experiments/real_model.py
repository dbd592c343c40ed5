"""Runs the command of experiments.paper.real_model."""

from experiments.paper import real_model

if __name__ == '__main__':
  real_model.main()
