"""Fig. 2: wrLLC of every head, stages shaded."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='fig_2', draws='heads', made_with='')
  )
