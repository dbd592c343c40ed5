"""Builds the specification of a run from settings and a workdir."""

import pathlib

import jax

from experiments.runtime import choices
from experiments.runtime import processes
from experiments.runtime import sections
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import request as requests
from rllc_jax.results import disk


def build(
  settings: sections.Settings, workdir: pathlib.Path
) -> tuple[requests.Spec, disk.DiskStore]:
  """Builds a run that can be checked, planned or sampled, and its store.

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
    process=processes.current(),
    keep_chains=estimation.keep_chains,
  )
  return spec, store
