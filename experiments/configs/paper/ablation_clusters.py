"""Clusters of wrLLC curves beside those of ablation curves."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(
      name='ablation_clusters', draws='ablation_clusters', made_with=''
    )
  )
