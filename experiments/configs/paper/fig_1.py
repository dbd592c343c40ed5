"""Fig. 1: last-layer wrLLC by cluster, head classes, and memory."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='fig_1', draws='head_types', made_with='')
  )
