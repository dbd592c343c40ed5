"""Final rLLC against the n-grams and multigrams that heads memorized.

The one that is kept was made on two cores (CPU, jax 0.10.2) on 2026-11-22 by

  python -m experiments.claims --language=planted --seed=0 --workdir=DIR
  python -m experiments.figures --config=FILE --workdir=DIR/planted-0

in 33 minutes and in seconds, FILE being this one. It is withdrawn: see
`experiments.paper.claims.WITHDRAWN`. A figure drawn now is stamped with the
reason. The one that is kept was stamped on 2026-11-30, not drawn again.
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    figure=dict(name='memorisation', draws='memorisation')
  )
