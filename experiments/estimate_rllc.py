"""The main job: the refined LLC of every head at every checkpoint.

  python -m experiments.estimate_rllc --config=FILE --workdir=DIR

reads `DIR/corpus` and `DIR/train/checkpoints`, which experiments.build_corpus
and experiments.train wrote, and the section `estimation` and the number `seed`
of the config. It writes the store `DIR/rllc`; a run that was stopped goes on,
and one that is done can be asked for more of anything.
"""

from collections.abc import Sequence
import functools
import pathlib

from absl import logging
import jax
import ml_collections
import numpy as np
import tqdm
import xarray as xr

from experiments import commands
from experiments import sections
from rllc_jax import losses
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import llc
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.models import attention_only
from rllc_jax.models import factored
from rllc_jax.refinement import weights
from rllc_jax.results import disk
from rllc_jax.training import checkpoints


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> xr.Dataset:
  """Estimates, goes on with what was begun, or reads what is complete.

  Args:
    config: `estimation` has fields of `sections.Estimation`; `seed` is that of
      minibatches and noise.
    workdir: with the subdirectories `corpus` and `train`.

  Returns:
    The traces.

  Raises:
    ValueError: a setting makes no sense, a name does not exist, or the store
      there is of another run.
  """
  settings = sections.read(config, 'estimation')
  corpus = packing.load_corpus(workdir / 'corpus')
  kept = workdir / 'train' / 'checkpoints'
  trajectory = checkpoints.trajectory(kept, settings.checkpoints or None)
  model = attention_only.AttentionOnly(
    **checkpoints.metadata(kept)['settings']['model']
  )
  check_fits(model, corpus)
  with tqdm.tqdm(
    desc='estimating', unit='draw', unit_scale=True, disable=None
  ) as bar:
    traces = trajectories.estimate_trajectory(
      jax.random.key(config.seed, impl='threefry2x32'),
      families(settings.refinements, model, settings.share_logits),
      trajectory,
      windows(settings.datasets, corpus),
      minibatches.uniform(corpus.tokens, settings.batch_size),
      posterior=types.Posterior(settings.nbeta, settings.localization),
      step_size=settings.step_size,
      num_chains=settings.num_chains,
      num_draws=settings.num_draws,
      burn_in=settings.burn_in,
      num_steps_between_draws=settings.num_steps_between_draws,
      share_batches=settings.share_batches,
      chunk_size=settings.chunk_size,
      store=disk.open_store(workdir / 'rllc'),
      provenance={'loss': 'next token', 'model': model_sizes(model)},
      progress=functools.partial(_show, bar),
    )
  logging.info('%s: complete\n%s', workdir / 'rllc', table(traces, settings))
  return traces


def check_fits(
  model: attention_only.AttentionOnly, corpus: packing.Corpus
) -> None:
  """Raises unless the model can read the corpus; JAX would clamp indices."""
  largest, length = int(corpus.tokens.max()), corpus.tokens.shape[1]
  if largest >= model.vocab_size or length > model.context_length + 1:
    raise ValueError(
      f'The corpus must have tokens below {model.vocab_size} in sequences of '
      f'at most {model.context_length + 1}, because the model was trained so; '
      f'got token {largest} in sequences of {length}.'
    )


def families(
  names: Sequence[str], model: attention_only.AttentionOnly, share_logits: bool
) -> tuple[types.Refinements, ...]:
  """Refinements of the shipped model, with its fast losses for heads."""
  shapes = attention_only.params_shapes(model)
  heads = weights.head_names(shapes)
  expanded = [
    part for name in names for part in (heads if name == 'heads' else [name])
  ]
  apply = functools.partial(attention_only.apply, model)
  return weights.families(
    expanded,
    shapes,
    losses.next_token_loss(apply),
    factored.head_losses(model, share_logits=share_logits),
  )


def windows(
  names: Sequence[str], corpus: packing.Corpus
) -> dict[str, types.Window]:
  """The windows of a corpus by name."""
  for name in names:
    if name not in corpus.windows:
      raise ValueError(
        'config.estimation.datasets must name windows of the corpus, '
        f'{", ".join(corpus.windows)}; got {name!r}.'
      )
  return {name: corpus.windows[name] for name in names}


def model_sizes(model: attention_only.AttentionOnly) -> dict[str, int]:
  """The sizes of a model by name."""
  names = ('num_layers', 'num_heads', 'd_model', 'd_head')
  names += ('context_length', 'vocab_size')
  return {name: getattr(model, name) for name in names}


def table(traces: xr.Dataset, settings: sections.Estimation) -> str:
  """A line a refinement: estimate and standard error, first and last step."""
  found = llc.llc_from_traces(traces, burn_in=settings.burn_in)
  lines = []
  for dataset in found.dataset.values:
    ends = found.sel(dataset=dataset).isel(checkpoint=[0, -1])
    first, last = ends.checkpoint.values
    lines.append(f'{dataset:>16}{f"step {first}":>20}{f"step {last}":>20}')
    for name in found.refinement.values:
      cells = ends.sel(refinement=name)
      values = zip(cells.llc.values, cells.standard_error.values, strict=True)
      texts = [f'{value:.2f} ± {error:.2f}' for value, error in values]
      lines.append(f'{name:>16}{texts[0]:>20}{texts[1]:>20}')
  failed = int(np.sum(found.num_failed))
  lines.append(f'failed chains: {failed}')
  return '\n'.join(lines)


def _show(bar: tqdm.tqdm, done: int, total: int) -> None:
  if bar.total is None:  # The rate is that of this process.
    bar.total, bar.initial, bar.n = total, done, done
  bar.update(done - bar.n)


if __name__ == '__main__':
  commands.start(run)
