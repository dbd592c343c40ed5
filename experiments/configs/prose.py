"""Two layers of four heads on real prose, ten minutes on two cores.

make demo PRESET=prose
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(cap_mb=4.0, vocab_size=2000, context_length=64),
    model=dict(num_layers=2, num_heads=4, d_model=128, d_head=32),
    training=dict(
      learning_rate=1e-3, batch_size=32, num_steps=2000, num_checkpoints=12
    ),
    estimation=dict(batch_size=4),
    # Shared minibatches make most of the error, so draws help more than chains.
    sampling=dict(num_chains=2, num_draws=200),
  )
