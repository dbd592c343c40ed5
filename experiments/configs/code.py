"""Real code, for the claims of the paper: one seed of several.

  python -m experiments.claims --language=code --seed=0 --workdir=DIR

Two layers of eight heads learn Python from the standard library and from
installed packages, without repeated rows. Small batches make induction heads
form within minutes (docs/results.md). Weights are kept at 60 checkpoints, dense
where losses fall fast and where induction forms; rLLCs are estimated at 21 of
them, to a standard error of 3 % or .03, whichever is more.
"""

import ml_collections

from experiments.runtime import sections

NUM_STEPS = 32_000
_EARLY = (0, 10, 30, 60, 100, 150, 200, 300, 400, 500, 600)
_MEASURED_EARLY = (0, 100, 300, 600)


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(
      sources=('stdlib_code', 'library_code'),
      further=('wiki_en',),
      cap_mb=25.0,
      vocab_size=512,
      context_length=128,
      said_twice=('train',),
    ),
    model=dict(num_layers=2, num_heads=8, d_model=64, d_head=16),
    training=dict(
      learning_rate=4e-3,
      beta2=0.99,
      batch_size=4,
      num_steps=NUM_STEPS,
      checkpoints=(*_EARLY, *range(800, NUM_STEPS + 1, 650)),
      resume_every=5_000,
    ),
    estimation=dict(
      code=('stdlib_code', 'library_code'),
      checkpoints=(*_MEASURED_EARLY, *range(800, NUM_STEPS + 1, 1_950)),
      batch_size=2,
      late_datasets=('train_twice', 'held_out/wiki_en'),
      num_late_checkpoints=2,
    ),
    analysis=dict(num_tokens=8_192, num_sequences=512, num_curvature_batches=2),
    sampling=dict(
      num_chains=1, target_error='relative(0.03, least=0.03)', max_draws=800
    ),
  )
