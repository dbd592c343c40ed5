"""Refined local learning coefficients of neural networks, in JAX.

The public surface is listed here once and loaded on first use, so that
`import rllc_jax` is fast and no estimate needs a package it does not use.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
  from rllc_jax.analysis.calibration import calibrate as calibrate
  from rllc_jax.analysis.calibration import calibrate_llc as calibrate_llc
  from rllc_jax.analysis.recommendation import recommend as recommend
  from rllc_jax.data.minibatches import full as full
  from rllc_jax.data.minibatches import uniform as uniform
  from rllc_jax.estimators.health import NotHealthyWarning as NotHealthyWarning
  from rllc_jax.estimators.layout import make_mesh as make_mesh
  from rllc_jax.estimators.llc import contrast as contrast
  from rllc_jax.estimators.llc import llc_from_traces as llc_from_traces
  from rllc_jax.estimators.plan import plan as plan
  from rllc_jax.estimators.rllc import Estimate as Estimate
  from rllc_jax.estimators.rllc import estimate_llc as estimate_llc
  from rllc_jax.estimators.rllc import estimate_rllc as estimate_rllc
  from rllc_jax.estimators.trajectory import (
    estimate_trajectory as estimate_trajectory,
  )
  from rllc_jax.posterior import effective_size as effective_size
  from rllc_jax.posterior import nbeta_from_batch as nbeta_from_batch
  from rllc_jax.posterior import (
    nbeta_from_effective_size as nbeta_from_effective_size,
  )
  from rllc_jax.posterior import nbeta_from_sequences as nbeta_from_sequences
  from rllc_jax.posterior import nbeta_from_tokens as nbeta_from_tokens
  from rllc_jax.refinement.weights import families as families
  from rllc_jax.refinement.weights import head_names as head_names
  from rllc_jax.refinement.weights import refine as refine
  from rllc_jax.results.disk import open_store as open_store
  from rllc_jax.samplers.mala import mala as mala
  from rllc_jax.samplers.rmsprop_sgld import rmsprop_sgld as rmsprop_sgld
  from rllc_jax.samplers.rmsprop_sgld import (
    rmsprop_sgld_corrected as rmsprop_sgld_corrected,
  )
  from rllc_jax.samplers.sghmc import sghmc as sghmc
  from rllc_jax.samplers.sgld import sgld as sgld
  from rllc_jax.samplers.sgnht import sgnht as sgnht
  from rllc_jax.types import Lens as Lens
  from rllc_jax.types import Minibatches as Minibatches
  from rllc_jax.types import Posterior as Posterior
  from rllc_jax.types import RefinedLoss as RefinedLoss
  from rllc_jax.types import Refinements as Refinements
  from rllc_jax.types import Sampler as Sampler
  from rllc_jax.types import Trajectory as Trajectory
  from rllc_jax.types import Window as Window

_HOMES = {
  'analysis.calibration': ('calibrate', 'calibrate_llc'),
  'analysis.recommendation': ('recommend',),
  'data.minibatches': ('full', 'uniform'),
  'estimators.health': ('NotHealthyWarning',),
  'estimators.layout': ('make_mesh',),
  'estimators.llc': ('contrast', 'llc_from_traces'),
  'estimators.plan': ('plan',),
  'estimators.rllc': ('Estimate', 'estimate_llc', 'estimate_rllc'),
  'estimators.trajectory': ('estimate_trajectory',),
  'posterior': (
    'effective_size',
    'nbeta_from_batch',
    'nbeta_from_effective_size',
    'nbeta_from_sequences',
    'nbeta_from_tokens',
  ),
  'refinement.weights': ('families', 'head_names', 'refine'),
  'results.disk': ('open_store',),
  'samplers.mala': ('mala',),
  'samplers.rmsprop_sgld': ('rmsprop_sgld', 'rmsprop_sgld_corrected'),
  'samplers.sghmc': ('sghmc',),
  'samplers.sgld': ('sgld',),
  'samplers.sgnht': ('sgnht',),
  'types': (
    'Lens',
    'Minibatches',
    'Posterior',
    'RefinedLoss',
    'Refinements',
    'Sampler',
    'Trajectory',
    'Window',
  ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name):
  if name not in _HOME:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_HOME[name]}'), name)


def __dir__():
  return __all__
