"""Builds the specification of a run from settings and a workdir."""

from collections.abc import Sequence
import dataclasses
import pathlib

import jax

from experiments.runtime import choices
from experiments.runtime import processes
from experiments.runtime import sections
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import request as requests
from rllc_jax.results import disk
from rllc_jax.results import store as stores
from rllc_jax.training import checkpoints


def late_parts(
  settings: sections.Settings, workdir: pathlib.Path
) -> list[sections.Settings]:
  """Parts of a run that follow when all checkpoints are done.

  First the last checkpoints on the late data sets, then the last checkpoint on
  all to a target of its own.

  Args:
    settings: of the config.
    workdir: with the subdirectory `train`.
  """
  estimation, sampling = settings.estimation, settings.sampling
  steps, late, parts = _steps(settings, workdir), estimation.late_datasets, []
  part = lambda sampling, **changes: dataclasses.replace(
    settings,
    sampling=sampling,
    estimation=dataclasses.replace(estimation, late_datasets=(), **changes),
  )
  if late:
    few = tuple(steps[-estimation.num_late_checkpoints :])
    parts.append(part(sampling, datasets=late, checkpoints=few))
  if target := estimation.last_target_error:
    closer = dataclasses.replace(sampling, target_error=target, num_draws=None)
    all_names = (*estimation.datasets, *late)
    parts.append(
      part(closer, datasets=all_names, checkpoints=tuple(steps[-1:]))
    )
  return parts


def rows_left_out(
  settings: sections.Settings, workdir: pathlib.Path
) -> set[stores.Row]:
  """Checkpoints at which the late data sets are not measured."""
  estimation = settings.estimation
  late = set(estimation.late_datasets) - set(estimation.datasets)
  steps = _steps(settings, workdir)[: -estimation.num_late_checkpoints]
  return {(step, name) for step in steps for name in late}


def _steps(settings: sections.Settings, workdir: pathlib.Path) -> Sequence[int]:
  """The checkpoints of a run."""
  if given := settings.estimation.checkpoints:
    return given
  return checkpoints.steps(workdir / 'train' / 'checkpoints')


def build(
  settings: sections.Settings,
  workdir: pathlib.Path,
  process: tuple[int, int] | None = None,
) -> tuple[requests.Spec, disk.DiskStore]:
  """Builds a run that can be checked, planned or sampled, and its store.

  Args:
    settings: of the config.
    workdir: with the subdirectories `corpus` and `train`.
    process: which of how many shares of the work is taken; those of the command
      by default.

  Raises:
    ValueError: if a name does not exist, or the corpus or the training run is
      missing.
  """
  estimation = settings.estimation
  corpus = packing.load_corpus(workdir / 'corpus')
  classed = choices.classed_tokens(corpus, workdir / 'corpus', estimation.code)
  subject = choices.subject(workdir, estimation, corpus)
  families = choices.families(
    estimation.refinements,
    subject.model,
    subject.comparison,
    share_logits=estimation.share_logits,
  )
  spec = requests.Spec(
    # JAX's default generator can be configured; draws must not depend on it.
    jax.random.key(settings.seed, impl='threefry2x32'),
    families,
    subject.trajectory,
    choices.weighted_windows(estimation.datasets, corpus, classed),
    # Weighted without properties, too, so that a complete store accepts further
    # data sets such as `train@repeated`.
    minibatches.weighted(classed, estimation.batch_size),
    settings.sampling,
    settings.layout,
    subject.comparison.provenance,
  )
  if settings.sampling.target_error is not None and not estimation.keep_chains:
    raise ValueError(
      'estimation.keep_chains must be True with sampling.target_error, because '
      'cells end at draws of their own, and a store without chains would take '
      'them again; got False.'
    )
  name = choices.directory_name('estimation.name', estimation.name)
  store = disk.open_store(
    workdir / name,
    process=process or processes.current(),
    keep_chains=estimation.keep_chains,
  )
  return spec, store
