"""The public surface: one line a name. `__init__.py` reads it."""

from rllc_jax.analysis.calibration import calibrate as calibrate
from rllc_jax.analysis.calibration import calibrate_llc as calibrate_llc
from rllc_jax.analysis.recommendation import recommend as recommend
from rllc_jax.analysis.suggestion import suggest as suggest
from rllc_jax.data.minibatches import full as full
from rllc_jax.data.minibatches import uniform as uniform
from rllc_jax.estimators.grid import make_mesh as make_mesh
from rllc_jax.estimators.health import NotHealthyWarning as NotHealthyWarning
from rllc_jax.estimators.llc import contrast as contrast
from rllc_jax.estimators.llc import llc_from_traces as llc_from_traces
from rllc_jax.estimators.nbeta_response import nbeta_response as nbeta_response
from rllc_jax.estimators.plan import plan as plan
from rllc_jax.estimators.rllc import Estimate as Estimate
from rllc_jax.estimators.rllc import estimate_llc as estimate_llc
from rllc_jax.estimators.rllc import estimate_rllc as estimate_rllc
from rllc_jax.estimators.settings import Layout as Layout
from rllc_jax.estimators.settings import Sampling as Sampling
from rllc_jax.estimators.stops import relative as relative
from rllc_jax.estimators.trajectory import (
  estimate_trajectory as estimate_trajectory,
)
from rllc_jax.estimators.transformer_parts import (
  transformer_parts as transformer_parts,
)
from rllc_jax.losses import next_token_loss as next_token_loss
from rllc_jax.models.architecture import Architecture as Architecture
from rllc_jax.posterior import effective_size as effective_size
from rllc_jax.posterior import nbeta_from_batch as nbeta_from_batch
from rllc_jax.posterior import (
  nbeta_from_effective_size as nbeta_from_effective_size,
)
from rllc_jax.posterior import nbeta_from_sequences as nbeta_from_sequences
from rllc_jax.posterior import nbeta_from_tokens as nbeta_from_tokens
from rllc_jax.refinement.by_path import axis as axis
from rllc_jax.refinement.by_path import equinox_attention as equinox_attention
from rllc_jax.refinement.by_path import everything as everything
from rllc_jax.refinement.by_path import flax_attention as flax_attention
from rllc_jax.refinement.by_path import parts as parts
from rllc_jax.refinement.parts import head_names as head_names
from rllc_jax.refinement.weights import families as families
from rllc_jax.refinement.weights import refine as refine
from rllc_jax.results.disk import open_store as open_store
from rllc_jax.results.exports import check_zarr as check_zarr
from rllc_jax.results.exports import open_results as open_results
from rllc_jax.results.exports import to_datatree as to_datatree
from rllc_jax.results.exports import to_zarr as to_zarr
from rllc_jax.samplers.leimkuhler_matthews import (
  leimkuhler_matthews as leimkuhler_matthews,
)
from rllc_jax.samplers.mala import mala as mala
from rllc_jax.samplers.mala import (
  sgld_with_mala_acceptance as sgld_with_mala_acceptance,
)
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

HOMES: dict[str, str]
