"""Figures of wrLLC beside Hessian trace, Fisher trace and weight norm."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='baselines', draws='baselines', made_with='')
  )
