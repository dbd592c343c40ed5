"""Every method of clustering and scaling beside the classes of heads."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='cluster_methods', draws='cluster_methods', made_with='')
  )
