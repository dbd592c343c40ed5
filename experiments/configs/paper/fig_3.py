"""Fig. 3: induction heads on text and on data that wants induction."""

import ml_collections

from experiments import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(
      name='fig_3',
      draws='datasets',
      datasets=('held_out/planted_repeats',),
      made_with='',
    )
  )
