"""Scores of the whole model over its stages."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='stage_scores', draws='stages', made_with='')
  )
