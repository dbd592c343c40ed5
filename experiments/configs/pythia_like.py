"""A model of Pythia's kind from training to report, by way of its files.

make demo PRESET=pythia_like

A small GPT-NeoX (parallel residual, rotary positions, MLPs) learns Python. Its
checkpoints are exported as directories of Hugging Face, and from there on they
are measured as if they were Pythia's: all heads and MLPs at 24 checkpoints, on
code and on dictionary entries.
"""

import ml_collections

from experiments.runtime import sections


def get_config() -> ml_collections.ConfigDict:
  return sections.make_config(
    seed=0,
    corpus=dict(
      sources=('stdlib_code', 'library_code', 'gcide'),
      further=(),
      cap_mb=10.0,
      vocab_size=512,
      context_length=128,
    ),
    model=dict(
      source='huggingface:exported',
      checkpoints='step*',
      num_layers=3,
      num_heads=4,
      d_model=64,
      d_head=16,
      d_mlp=256,
      parallel=True,
      positions='rotary',
      rotary_dims=4,
      biases=('b_Q', 'b_K', 'b_V', 'b_O', 'b_in', 'b_out'),
    ),
    training=dict(
      learning_rate=4e-3,
      beta2=0.99,
      batch_size=4,
      num_steps=15_000,
      num_checkpoints=24,
      resume_every=5_000,
    ),
    estimation=dict(
      refinements=('heads', 'mlps'),
      datasets=('train/stdlib_code', 'train/gcide'),
      code=('stdlib_code', 'library_code'),
      batch_size=2,
    ),
    analysis=dict(num_tokens=4_096, num_sequences=512, num_curvature_batches=2),
    sampling=dict(
      num_chains=1, target_error='relative(0.1, least=0.2)', max_draws=600
    ),
  )
