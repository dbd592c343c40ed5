"""A language whose structure is known, learned on two cores in minutes.

  make demo PRESET=planted

Bigrams, n-grams, skip n-grams, nested brackets and repeated strings in stated
shares (`rllc_jax.data.synthetic`), and three further data sets that differ in
one structure each. Induction forms here, and not on real text of this size.
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(
      sources=('planted',),
      further=('planted_flat', 'planted_words', 'planted_repeats'),
      tokenizer='words',
      cap_mb=12.0,
      vocab_size=128,
      context_length=96,
    ),
    model=dict(num_layers=2, num_heads=8, d_model=64, d_head=8),
    training=dict(
      learning_rate=2e-3, batch_size=64, num_steps=6000, num_checkpoints=12
    ),
    estimation=dict(
      datasets=('train', 'held_out/planted_repeats'), batch_size=4
    ),
    sampling=dict(num_chains=4, num_draws=200),
  )
