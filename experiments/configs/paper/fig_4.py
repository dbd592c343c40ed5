"""Fig. 4: multigram heads against a one-layer model; composition."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='fig_4', draws='multigram_circuit', made_with='')
  )
