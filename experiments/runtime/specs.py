"""Builds the specification of a run from settings and a workdir."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import NamedTuple

import jax
import xarray as xr

from experiments.runtime import choices
from experiments.runtime import processes
from experiments.runtime import sections
from experiments.runtime import subjects
from experiments.runtime import workdirs
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import health
from rllc_jax.estimators import request as requests
from rllc_jax.results import disk
from rllc_jax.results import store as stores


class Run(NamedTuple):
  """A run in its parts, each a specification.

  Attributes:
    spec: all checkpoints, but the last if it has a target of its own.
    late: what follows when these are done: the last checkpoints on the late
      data sets, and the last checkpoint on all to its target.
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


def as_requested(
  estimates: xr.Dataset, settings: sections.Settings, workdir: pathlib.Path
) -> xr.Dataset:
  """Estimates, judged by what was asked of each cell.

  Args:
    estimates: from `llc_from_traces`.
    settings: of the config.
    workdir: with the subdirectory `train`.
  """
  targets = xr.full_like(estimates.llc, '', object)
  if (target := settings.sampling.target_error) is not None:
    targets[:] = str(target)
  if last := settings.estimation.last_target_error:
    step = _steps(settings, workdir)[-1]
    targets.loc[{'checkpoint': targets.checkpoint == step}] = last
  rows = rows_left_out(settings, workdir)
  estimates = health.leave_out(estimates, rows)
  return health.check(estimates.assign(target_error=targets.astype(str)))


def _steps(settings: sections.Settings, workdir: pathlib.Path) -> Sequence[int]:
  """The checkpoints of a run."""
  if given := settings.estimation.checkpoints:
    return given
  return subjects.steps(workdir, settings.model)


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
  subject = subjects.load(workdir, settings, corpus)
  families = subject.families(
    estimation.refinements, share_logits=estimation.share_logits
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
  parts = _parts(everything, settings, subject.trajectory.steps)
  store = open_store(settings, workdir, processes.current())
  return Run(parts[0], tuple(parts[1:]), store)


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
    workdirs.store_place(workdir / name),
    process=process,
    keep_chains=estimation.keep_chains,
  )


def _parts(
  everything: requests.Spec, settings: sections.Settings, steps: Sequence[int]
) -> list[requests.Spec]:
  """The parts of a run; they share compiled programs."""
  estimation, names = settings.estimation, [*everything.datasets]
  late = steps[-estimation.num_late_checkpoints :]
  if not estimation.last_target_error:
    parts = [(estimation.datasets, steps), (estimation.late_datasets, late)]
    return [_part(everything, *part) for part in parts if all(part)]
  parts = [
    (estimation.datasets, steps[:-1]),
    (estimation.late_datasets, late[:-1]),
  ]
  closer = dataclasses.replace(
    settings.sampling, target_error=estimation.last_target_error, num_draws=None
  )
  last = _part(everything._replace(sampling=closer), names, steps[-1:])
  return [*(_part(everything, *part) for part in parts if all(part)), last]


def _part(
  everything: requests.Spec, names: Sequence[str], steps: Sequence[int]
) -> requests.Spec:
  """Some data sets at some checkpoints."""
  trajectory = everything.trajectory._replace(steps=tuple(steps))
  datasets = {name: everything.datasets[name] for name in names}
  return everything._replace(trajectory=trajectory, datasets=datasets)
