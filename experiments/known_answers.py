"""Runs the command of experiments.checks.known_answers."""

from experiments.checks import known_answers

if __name__ == '__main__':
  known_answers.main()
