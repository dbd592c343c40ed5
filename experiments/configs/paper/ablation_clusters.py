"""Clusters of wrLLC curves beside those of ablation curves.

The committed figure was made on two cores (CPU, jax 0.10.2) on 2026-11-22 by

  python -m experiments.claims --language=planted --seed=0 --workdir=DIR
  python -m experiments.figures --config=FILE --workdir=DIR/planted-0

with this file as FILE, in 33 minutes and in seconds. It is withdrawn for the
reasons in `experiments.paper.claims.WITHDRAWN`. Commands stamp new figures with
the reason; the committed one was stamped on 2026-11-30 without redrawing it.
"""

import ml_collections

from experiments.configs import paper


def get_config() -> ml_collections.ConfigDict:
  return paper.make_config(
    figure=dict(name='ablation_clusters', draws='ablation_clusters')
  )
