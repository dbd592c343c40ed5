"""The model and data of the benchmarks: the paper's transformer, real tokens.

Weights are untrained, because the time of a step does not depend on them.
Precision does, so `benchmarks.precision` trains.
"""

from collections.abc import Callable
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import build_corpus
from experiments.runtime import sections
from experiments.runtime import subjects
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import rllc
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.models import architecture
from rllc_jax.models import transformer
from rllc_jax.results import memory

POSTERIOR = types.Posterior(nbeta=30.0, localization=200.0)
STEP_SIZE = 1e-3
MODEL = transformer.Architecture()
CONFIG = sections.make_config(
  seed=0,
  corpus=dict(
    sources=('stdlib_code',),  # Needs no package.
    further=(),
    cap_mb=2.0,
    vocab_size=MODEL.vocab_size,
    context_length=MODEL.context_length,
  ),
)


class Problem(NamedTuple):
  """Weights and tokens of the benchmarks.

  Attributes:
    params: of `MODEL`.
    tokens: [N, context_length]; all but the first of a row are predicted.
  """

  params: types.Params
  tokens: np.ndarray


def prepare(workdir: pathlib.Path) -> Problem:
  """Builds or loads the corpus, and draws the weights."""
  build_corpus.run(CONFIG, workdir)
  corpus = packing.load_corpus(workdir / 'corpus')
  params = architecture.init_params(jax.random.key(CONFIG.seed), MODEL)
  return Problem(params, np.asarray(corpus.tokens))


@functools.cache  # Compiled programs are cached by the identity of functions.
def family(names: tuple[str, ...]) -> types.Refinements:
  """Refinements of one layer."""
  (refinements,) = subjects.families(names, MODEL)
  return refinements


def batches(
  problem: Problem, batch_size: int, context_length: int
) -> types.Minibatches:
  """Minibatches of uniformly drawn rows, cut to the context length."""
  tokens = problem.tokens[:, :context_length]
  return minibatches.uniform(tokens, batch_size)


def runner(
  problem: Problem,
  names: tuple[str, ...],
  data: types.Minibatches,
  *,
  num_chains: int,
  num_steps: int,
  mesh: jax.sharding.Mesh,
) -> Callable[[], Any]:
  """A call that takes `num_steps` steps of heads of one layer."""
  return steps_of(
    problem,
    family(names),
    data,
    num_chains=num_chains,
    num_steps=num_steps,
    mesh=mesh,
  )


def steps_of(
  problem: Problem,
  refinements: types.Refinements,
  data: types.Minibatches,
  *,
  num_chains: int,
  num_steps: int,
  mesh: jax.sharding.Mesh,
) -> Callable[[], Any]:
  """A call that takes `num_steps` steps of refinements of the problem."""
  spec = requests.Spec(
    jax.random.key(1),
    [refinements],
    rllc.of_one_checkpoint(problem.params),
    {'data': minibatches.whole(data.data)},
    data,
    sampling(num_chains=num_chains, num_draws=num_steps),
    settings.Layout(mesh=mesh, segment=num_steps),
  )
  # Checked once, outside the timed call.
  request = requests.check(spec, with_losses=False)
  return lambda: trajectories.run(request, memory.MemoryStore())


def sampling(num_chains: int, num_draws: int) -> settings.Sampling:
  """The settings of all benchmarks."""
  return settings.Sampling(
    nbeta=float(POSTERIOR.nbeta),
    localization=float(POSTERIOR.localization),
    step_size=STEP_SIZE,
    num_chains=num_chains,
    num_draws=num_draws,
    burn_in=0,
    num_baseline_batches=0,  # Not part of a step.
  )
