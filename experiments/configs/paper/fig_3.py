"""Fig. 3: the last layer on text, and its change on other data.

Of one study by experiments.claims in DIR:

  python -m experiments.figures --config=FILE --workdir=DIR/code-0
"""

import ml_collections

from experiments.configs import paper


def get_config() -> ml_collections.ConfigDict:
  return paper.make_config(
    figure=dict(
      name='fig_3',
      draws='datasets',
      datasets=('train_twice', 'held_out/wiki_en'),
    )
  )
