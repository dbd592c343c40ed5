"""The command of experiments.paper.claims."""

from experiments.paper import claims

if __name__ == '__main__':
  claims.main()
