"""The settings of Wang et al. (2410.02984) on a corpus of your choice.

  make demo PRESET=paper/full_size

The text packages hold some 25 million tokens; the paper trained on 5 billion.
Name more text in `corpus.files` or `corpus.tfds_directory`. It is meant for
accelerators: on a CPU it takes days.
"""

import ml_collections

from experiments.configs import paper

# The paper's grid, of 107.
CHECKPOINTS = (
  0,
  100,
  *range(200, 10_000, 200),
  *range(10_000, 20_000, 400),
  *range(20_000, 50_001, 1_000),
)


def get_config() -> ml_collections.ConfigDict:
  return paper.make_config(
    seed=0,
    corpus=dict(cap_mb=1000.0, vocab_size=5000, context_length=1024),
    model=dict(num_layers=2, num_heads=8, d_model=256, d_head=32),
    training=dict(
      learning_rate=1e-3,
      weight_decay=0.05,
      batch_size=100,
      num_steps=50_000,
      checkpoints=CHECKPOINTS,
    ),
    analysis=dict(num_tokens=8_192),
    estimation=dict(batch_size=32),
    sampling=dict(num_chains=4, num_draws=200, burn_in=0),
  )
