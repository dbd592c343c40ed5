"""Rises of the loss if a circuit between the first and last layer is cut."""

import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import ablations
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import readings
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer

_KINDS = 'joint_nested', 'joint_other'


def read_joint_cuts(
  model: transformer.Architecture,
  trajectory: types.Trajectory,
  text: readings.Text,
  writers: np.ndarray,
) -> xr.Dataset:
  """Cuts heads of the first layer from the last, at every checkpoint.

  All outputs of the heads are subtracted from the inputs of the last layer at
  once, see `ablations.joint_path_losses`.

  Args:
    model: its sizes; 2 layers or more.
    trajectory: the checkpoints.
    text: that losses are measured on.
    writers: [H], True for the heads of the first layer that are cut.

  Returns:
    Over (checkpoint, minibatch), in nats: `joint_nested`, the rise of the loss
    at tokens that close a delimiter within another; `joint_other`, at all other
    tokens; `joint_nested_control` and `joint_other_control`, the same with all
    other heads of the layer cut. NaN where there is no such head or token.
  """
  writers = np.asarray(writers, bool)
  batches = list(text.minibatches())
  nested = np.split(text.depths()[:, 1:] > 1, len(batches))
  cuts = {'': writers, '_control': ~writers}

  def at_checkpoint(params):
    rises = {f'{kind}{cut}': [] for kind in _KINDS for cut in cuts}
    for batch, is_nested in zip(batches, nested, strict=True):
      plain = np.asarray(token_losses.token_losses(model, params, batch))
      for cut, heads in cuts.items():
        rise = _cut_losses(model, params, batch, heads) - plain
        for kind, mask in zip(_KINDS, (is_nested, ~is_nested), strict=True):
          mean = rise[mask].mean() if mask.any() else np.nan
          rises[f'{kind}{cut}'].append(mean)
    return {name: np.array(values) for name, values in rises.items()}

  measured = every_checkpoint.map_checkpoints(at_checkpoint, trajectory)
  return xr.Dataset(
    {
      name: (('checkpoint', 'minibatch'), np.stack([x[name] for x in measured]))
      for name in measured[0]
    },
    {'checkpoint': list(trajectory.steps)},
  )


def _cut_losses(model, params, batch, heads):
  """Losses with the heads cut, [B, T - 1]; NaN without any head."""
  if not heads.any():
    return np.full((len(batch), batch.shape[1] - 1), np.nan)
  cut = ablations.joint_path_losses(
    model, params, batch, heads.astype(np.float32), model.num_layers - 1
  )
  return np.asarray(cut)
