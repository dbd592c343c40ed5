"""Builds the specification of a run from settings and a workdir."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import NamedTuple

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


class Run(NamedTuple):
  """A run in its parts, each a specification.

  Attributes:
    spec: all checkpoints.
    late: what follows when these are done: the last checkpoints on the late
      data sets, then the last checkpoint on all to a target of its own.
    store: of all parts.
  """

  spec: requests.Spec
  late: tuple[requests.Spec, ...]
  store: disk.DiskStore


def rows_left_out(
  settings: sections.Settings, workdir: pathlib.Path
) -> set[stores.Row]:
  """Checkpoints at which the late data sets are not measured."""
  estimation = settings.estimation
  late = set(estimation.late_datasets) - set(estimation.datasets)
  if not late:
    return set()
  steps = _steps(settings, workdir)[: -estimation.num_late_checkpoints]
  return {(step, name) for step in steps for name in late}


def _steps(settings: sections.Settings, workdir: pathlib.Path) -> Sequence[int]:
  """The checkpoints of a run."""
  if given := settings.estimation.checkpoints:
    return given
  return checkpoints.steps(workdir / 'train' / 'checkpoints')


def build(settings: sections.Settings, workdir: pathlib.Path) -> Run:
  """Builds a run that can be checked, planned or sampled.

  Args:
    settings: of the config.
    workdir: with the subdirectories `corpus` and `train`.

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
  names = (*estimation.datasets, *estimation.late_datasets)
  everything = requests.Spec(
    # JAX's default generator can be configured; draws must not depend on it.
    jax.random.key(settings.seed, impl='threefry2x32'),
    families,
    subject.trajectory,
    choices.weighted_windows(names, corpus, classed),
    # Weighted without properties, too, so that a complete store accepts further
    # data sets such as `train@repeated`.
    minibatches.weighted(classed, estimation.batch_size),
    settings.sampling,
    settings.layout,
    subject.comparison.provenance,
  )
  spec = _part(everything, estimation.datasets)
  late = _late_parts(everything, settings, _steps(settings, workdir))
  return Run(spec, late, open_store(settings, workdir, processes.current()))


def open_store(
  settings: sections.Settings, workdir: pathlib.Path, process: tuple[int, int]
) -> disk.DiskStore:
  """Opens the store of a run.

  Args:
    settings: of the config.
    workdir: of the run.
    process: (p, P), this is process p of P.
  """
  estimation = settings.estimation
  if settings.sampling.target_error is not None and not estimation.keep_chains:
    raise ValueError(
      'estimation.keep_chains must be True with sampling.target_error, because '
      'cells end at draws of their own, and a store without chains would take '
      'them again; got False.'
    )
  name = choices.directory_name('estimation.name', estimation.name)
  return disk.open_store(
    workdir / name, process=process, keep_chains=estimation.keep_chains
  )


def _late_parts(
  everything: requests.Spec, settings: sections.Settings, steps: Sequence[int]
) -> tuple[requests.Spec, ...]:
  """The parts that follow; they share the programs of the first."""
  estimation, parts = settings.estimation, []
  if estimation.late_datasets:
    few = steps[-estimation.num_late_checkpoints :]
    parts.append(_part(everything, estimation.late_datasets, few))
  if target := estimation.last_target_error:
    closer = dataclasses.replace(
      settings.sampling, target_error=target, num_draws=None
    )
    last = _part(everything, [*everything.datasets], steps[-1:])
    parts.append(last._replace(sampling=closer))
  return tuple(parts)


def _part(
  everything: requests.Spec,
  names: Sequence[str],
  steps: Sequence[int] | None = None,
) -> requests.Spec:
  """Some data sets, at all checkpoints or some."""
  trajectory = everything.trajectory
  if steps is not None:
    trajectory = trajectory._replace(steps=tuple(steps))
  datasets = {name: everything.datasets[name] for name in names}
  return everything._replace(trajectory=trajectory, datasets=datasets)
