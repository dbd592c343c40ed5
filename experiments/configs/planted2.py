"""The second planted language, for the claims of the paper: a seed of several.

  python -m experiments.claims --language=planted2 --seed=0 --workdir=DIR

More to memorize and fewer repetitions than in the first: 512 words of Zipf's
frequencies, 64 skip pairs, quotes in brackets (`rllc_jax.data.synthetic`).
Weights are kept at 60 checkpoints; rLLCs are estimated at 21 of them.
"""

import ml_collections

from experiments.runtime import sections

NUM_STEPS = 16_000
_EARLY = (0, 10, 30, 60, 100, 150, 200, 250, 300, 350, 400)
_MEASURED_EARLY = (0, 100, 200, 300)


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(
      sources=('planted2',),
      further=('planted2_repeats',),
      tokenizer='words',
      cap_mb=20.0,
      vocab_size=400,
      context_length=96,
    ),
    model=dict(num_layers=2, num_heads=8, d_model=64, d_head=16),
    training=dict(
      learning_rate=4e-3,
      beta2=0.99,
      batch_size=16,
      num_steps=NUM_STEPS,
      checkpoints=(*_EARLY, *range(400, NUM_STEPS + 1, 325)),
      resume_every=5_000,
    ),
    estimation=dict(
      checkpoints=(*_MEASURED_EARLY, *range(400, NUM_STEPS + 1, 975)),
      batch_size=4,
      late_datasets=('held_out/planted2_repeats',),
      num_late_checkpoints=2,
    ),
    analysis=dict(num_tokens=8_192, num_sequences=512, num_curvature_batches=2),
    sampling=dict(
      num_chains=1, target_error='relative(0.03, least=0.03)', max_draws=800
    ),
  )
