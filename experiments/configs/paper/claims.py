"""The effect of every claim, by seed and pooled.

Of the studies of several seeds by experiments.claims in DIR:

  python -m experiments.figures --config=FILE --workdir=DIR
"""

import ml_collections

from experiments.configs import paper


def get_config() -> ml_collections.ConfigDict:
  return paper.make_config(figure=dict(name='claims', draws='claims'))
