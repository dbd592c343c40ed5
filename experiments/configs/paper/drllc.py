"""LLC of the whole model on every data set."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='drllc', draws='whole_model', made_with='')
  )
