"""The same tokens early in training.

Of one study by experiments.claims in DIR:

  python -m experiments.figures --config=FILE --workdir=DIR/code-0
"""

import ml_collections

from experiments.configs import paper


def get_config() -> ml_collections.ConfigDict:
  return paper.make_config(
    figure=dict(name='early_tokens', draws='early_tokens')
  )
