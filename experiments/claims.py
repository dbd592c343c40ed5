"""Runs the command of experiments.paper.claim_runs."""

from experiments.paper import claim_runs

if __name__ == '__main__':
  claim_runs.main()
