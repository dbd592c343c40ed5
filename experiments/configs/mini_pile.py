"""Real text at the scale of a laptop, the second language of the claims.

  python -m experiments.claims --workdir=DIR --language=mini_pile --seed=0

Eight heads a layer as in the paper, a quarter of its width and less text.
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(cap_mb=5.0, vocab_size=1000, context_length=128),
    model=dict(num_layers=2, num_heads=8, d_model=128, d_head=16),
    training=dict(
      learning_rate=2e-3, batch_size=32, num_steps=5000, num_checkpoints=12
    ),
    estimation=dict(datasets=('train', 'train/stdlib_code'), batch_size=4),
    sampling=dict(num_chains=4, num_draws=100),
  )
