"""The demo: induction heads form on real code, and part from the other heads.

make demo

Two layers of eight heads learn Python from the standard library and from
installed packages. Small batches make induction heads form within minutes. On
code that is said twice, what these heads do matters more, and their estimates
rise while those of the other heads of their layer fall.
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(
      sources=('stdlib_code', 'library_code'),
      further=(),
      cap_mb=25.0,
      vocab_size=512,
      context_length=128,
      said_twice=('train',),
    ),
    model=dict(num_layers=2, num_heads=8, d_model=64, d_head=16),
    training=dict(
      learning_rate=4e-3,  # At 2e-3 induction takes half as long again.
      beta2=0.99,
      batch_size=4,
      num_steps=25_000,
      num_checkpoints=24,
      resume_every=5_000,
    ),
    estimation=dict(
      code=('stdlib_code', 'library_code'),
      batch_size=2,
      late_datasets=('train_twice',),
      last_target_error='relative(0.03, least=0.02)',
    ),
    analysis=dict(num_tokens=4_096, num_sequences=512, num_curvature_batches=2),
    # Young heads have estimates near 0, of which no share is reached.
    sampling=dict(
      num_chains=1, target_error='relative(0.05, least=0.08)', max_draws=600
    ),
  )
