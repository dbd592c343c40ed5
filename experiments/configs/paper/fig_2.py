"""Fig. 2: wrLLC of every head, stages shaded.

The committed figure was made on two cores (CPU, jax 0.10.2) on 2026-11-22 by

  python -m experiments.claims --language=planted --seed=0 --workdir=DIR
  python -m experiments.figures --config=FILE --workdir=DIR/planted-0

with this file as FILE, in 33 minutes and in seconds.
"""

import ml_collections

from experiments.configs import paper


def get_config() -> ml_collections.ConfigDict:
  return paper.make_config(figure=dict(name='fig_2', draws='heads'))
