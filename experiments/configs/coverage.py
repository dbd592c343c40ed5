"""The transformer of experiments.coverage, whose head is sampled 400 times.

  python -m experiments.coverage

Small, so that this takes minutes; trained well below the entropy of pairs. The
head is in the last layer, where a step costs least.
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(cap_mb=1.0, vocab_size=512, context_length=32),
    model=dict(num_layers=2, num_heads=4, d_model=64, d_head=16),
    training=dict(
      learning_rate=3e-3, batch_size=64, num_steps=2000, num_checkpoints=2
    ),
    estimation=dict(refinements=('1:0',), checkpoints=(2000,), batch_size=4),
  )
