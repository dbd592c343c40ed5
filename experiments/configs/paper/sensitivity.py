"""Final wrLLC at other step sizes, gamma and n beta."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='sensitivity', draws='sensitivity', made_with='')
  )
