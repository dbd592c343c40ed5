"""The demo in about a minute: every step is real, none is long.

make demo PRESET=smoke
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(cap_mb=0.5, vocab_size=500, context_length=32),
    model=dict(num_layers=2, num_heads=2, d_model=32, d_head=16),
    training=dict(
      learning_rate=3e-3, batch_size=32, num_steps=500, num_checkpoints=4
    ),
    estimation=dict(batch_size=8),
    sampling=dict(num_chains=2, num_draws=50),
  )
