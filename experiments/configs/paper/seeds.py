"""Mean curves of each class of heads over seeds.

Of the studies of several seeds by experiments.claims in DIR:

  python -m experiments.figures --config=FILE --workdir=DIR
"""

import ml_collections

from experiments.configs import paper


def get_config() -> ml_collections.ConfigDict:
  return paper.make_config(figure=dict(name='seeds', draws='seeds'))
