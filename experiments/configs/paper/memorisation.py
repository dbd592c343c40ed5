"""Final rLLC against the n-grams and multigrams that heads memorized."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='memorisation', draws='memorisation', made_with='')
  )
