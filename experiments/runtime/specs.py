"""From settings and a workdir to a run: everything is built here, once."""

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
  """A run that can be checked, planned or filled, and its store.

  Args:
    settings: of the config.
    workdir: with the subdirectories `corpus` and `train`.

  Raises:
    ValueError: if a name does not exist, or something is not there yet.
  """
  asked = settings.estimation
  corpus = packing.load_corpus(workdir / 'corpus')
  classed = choices.classed_tokens(corpus, workdir / 'corpus', asked.code)
  subject = choices.subject(workdir, asked, corpus)
  families = choices.families(
    asked.refinements,
    subject.model,
    subject.comparison,
    share_logits=asked.share_logits,
  )
  spec = requests.Spec(
    jax.random.key(settings.seed, impl='threefry2x32'),
    families,
    subject.trajectory,
    choices.weighted_windows(asked.datasets, corpus, classed),
    minibatches.weighted(classed, asked.batch_size),
    settings.sampling,
    settings.layout,
    subject.comparison.provenance,
  )
  name = choices.directory_name('estimation.name', asked.name)
  store = disk.open_store(
    workdir / name, process=processes.current(), keep_chains=asked.keep_chains
  )
  return spec, store
