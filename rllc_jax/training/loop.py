"""Trains a model and writes checkpoints of its trajectory.

In the directory of a run:

  checkpoints/STEP   weights after STEP updates, at `checkpoint_steps`
  resume/STEP        the one state from which a killed run continues

On the same devices a run that was killed and resumed is bit-equal to an
uninterrupted one. The batch of a step is a function of the step, and everything
else is in the state.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import xarray as xr

from rllc_jax import checked_files
from rllc_jax import identities
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.training import checkpoints
from rllc_jax.training import records
from rllc_jax.training import runs
from rllc_jax.training import together
from rllc_jax.training import updates

Progress = Callable[[int, int, str], None]

_SEGMENT_STEPS = 256  # At most; also the padded length of the compiled program.
_SEGMENT_SECONDS = 1.0  # The aim, so that progress is reported every second.
_LEAST_SHARE = 20  # Saving states takes at most one second in so many.


class _State(NamedTuple):
  """Weights, optimizer state, and the losses [steps] of the steps so far."""

  params: types.Params
  optimizer: types.PyTree
  losses: np.ndarray


class _Run(NamedTuple):
  """Constants of a run: its place, settings and compiled programs."""

  directory: pathlib.Path
  identity: dict[str, Any]
  checkpoint_steps: tuple[int, ...]
  resume_every: int
  resume_seconds: float
  sequences: Callable[[int, int], np.ndarray]  # first, count -> [count, B]
  advance: Callable[..., tuple[types.Params, types.PyTree, types.Array]]
  evaluate: Callable[[types.Params], dict[str, float]]
  progress: Progress


def train(
  loss_fn: types.LossFn,
  params: types.Params,
  optimizer: optax.GradientTransformation,
  tokens: np.ndarray,
  window: types.Window,
  *,
  seed: int,
  batch_size: int,
  num_steps: int,
  checkpoint_steps: Sequence[int],
  directory: str | os.PathLike[str],
  evaluation: Mapping[str, np.ndarray] | None = None,
  settings: Mapping[str, Any] | None = None,
  resume_every: int = 500,
  resume_seconds: float = 10.0,
  devices: Sequence[jax.Device] | None = None,
  progress: Progress = lambda done, total, message: None,
) -> xr.Dataset:
  """Trains from `params`, or continues the run in `directory`.

  A finished run is not repeated: its record is read. The optimizer is a pair of
  functions and cannot be compared; its numbers belong into `settings`.

  Args:
    loss_fn: `loss_fn(params, batch [B, T] int32) -> []`, a mean over sequences.
    params: weights to begin with, float32.
    optimizer: for example `updates.adamw`.
    tokens: [N, T] integers, whole on every device.
    window: the rows to train on.
    seed: of the order of the data.
    batch_size: B; as many devices as divide it evenly take part.
    num_steps: total number of updates.
    checkpoint_steps: updates before each checkpoint, 0 for `params` themselves.
    directory: of the run; created if needed. A leading `~` is the home of
      the user.
    evaluation: name -> rows of `tokens` [any] whose mean loss is measured at
      every checkpoint.
    settings: further JSON values that define the run; compared on resuming and
      stored in every checkpoint's metadata.
    resume_every: steps between two states to resume from.
    resume_seconds: time between two of them, if `resume_every` steps take
      longer; longer if saving takes more than a twentieth of it.
    devices: to divide a batch over; by default all.
    progress: `progress(steps done, num_steps, message)`, at the beginning and
      about once a second.

  Returns:
    The losses; see `records.training_record`.

  Raises:
    ValueError: if arguments do not fit together.
    runs.TrainingError: if the run in `directory` is another one, or a loss is
      not finite; the state before it is saved.
    checkpoints.CheckpointError: if the disk fails, or a file is damaged.
  """
  evaluation = dict(evaluation or {})
  runs.check(
    len(tokens),
    window,
    batch_size,
    num_steps,
    checkpoint_steps,
    resume_every,
    evaluation,
  )
  mesh = updates.data_mesh(devices or jax.devices(), batch_size)
  whole = updates.replicated(mesh)
  evaluation = {name: np.asarray(rows) for name, rows in evaluation.items()}
  identity = identities.identity(
    seed=seed,
    batch_size=batch_size,
    num_steps=num_steps,
    checkpoint_steps=sorted({int(step) for step in checkpoint_steps}),
    window=[int(window.start), int(window.length)],
    settings=dict(settings or {}),
    tokens=trees.content_hash(tokens),
    evaluation=trees.content_hash(evaluation),
    initial_weights=trees.content_hash(params),
  )
  resident = jax.device_put(tokens, whole)
  advance = updates.update_steps(loss_fn, optimizer, mesh)

  def sequences(first, count):
    return int(window.start) + updates.epoch_batches(
      seed, int(window.length), batch_size, first, count
    )

  run = _Run(
    directory=pathlib.Path(os.path.expanduser(directory)),
    identity=identity,
    checkpoint_steps=tuple(identity['checkpoint_steps']),
    resume_every=resume_every,
    resume_seconds=resume_seconds,
    sequences=sequences,
    advance=lambda params, state, *rest: advance(
      params, state, resident, *rest
    ),
    evaluate=_evaluation(loss_fn, mesh, resident, evaluation, batch_size),
    progress=progress,
  )
  fresh = _State(
    params, optimizer.init(params), np.zeros(num_steps, np.float32)
  )
  state, step = _begin_or_resume(run, fresh)
  # After loading, which gives numpy arrays on the host.
  state = state._replace(
    params=jax.device_put(state.params, whole),
    optimizer=jax.device_put(state.optimizer, whole),
  )
  return _record(run, _go_on(run, state, step))


def _begin_or_resume(run: _Run, fresh: _State) -> tuple[_State, int]:
  """The state to train from and its step, with no checkpoint beyond it."""
  resume, folder = run.directory / 'resume', run.directory / 'checkpoints'
  saved_steps = checkpoints.steps(folder) if folder.exists() else ()
  if resume.exists() and checkpoints.steps(resume):
    runs.check_same(checkpoints.metadata(resume), run.identity, run.directory)
  saved = checkpoints.load_resume(resume, fresh)
  together.agreed(0)  # No process writes before all have read.
  if saved is None:
    if saved_steps:
      raise runs.TrainingError(
        f'A state to resume from was expected in {resume}, because {folder} '
        f'has checkpoints up to step {saved_steps[-1]}; got none. Use another '
        'directory.'
      )
    # Before any checkpoint, so that checkpoints always have a resume state.
    checkpoints.save_resume(resume, fresh, 0, run.identity)
    return fresh, 0
  state, step = saved
  for due in run.checkpoint_steps:
    if due < step:
      _losses(run, due)  # Raises if the checkpoint is missing.
  # Checkpoints newer than the state are trained again.
  late = [x for x in saved_steps if x > step]
  together.first_does(lambda: [checkpoints.delete(folder, x) for x in late])
  # A copy, because loaded arrays may be read-only.
  return state._replace(losses=state.losses.copy()), step


def _go_on(run: _Run, state: _State, step: int) -> _State:
  """Runs from `step` to the end, in segments."""
  num_steps = len(state.losses)
  resume, resumed_from = run.directory / 'resume', step
  run.progress(step, num_steps, 'compiling')
  # The first segment is one step, which gives the pace of the next.
  pace, save_at = 1, time.monotonic() + run.resume_seconds
  while True:
    _save_checkpoint(run, state, step)
    due = step % run.resume_every == 0 or step == num_steps
    # Agreed, because clocks differ and saving is collective.
    late = together.agreed(time.monotonic() > save_at)
    if (due or late) and step != resumed_from:
      began = time.monotonic()
      checkpoints.save_resume(resume, state, step, run.identity)
      resumed_from, now = step, time.monotonic()
      save_at = now + max(run.resume_seconds, _LEAST_SHARE * (now - began))
    if step == num_steps:
      return state
    stop = min(step + pace, _next_stop(run, step, num_steps))
    began = time.perf_counter()
    after, losses = _segment(run, state, step, stop)
    if not np.isfinite(losses).all():
      if step != resumed_from:
        checkpoints.save_resume(resume, state, step, run.identity)
      raise runs.TrainingError(_divergence(losses, step, run.directory))
    seconds = time.perf_counter() - began
    pace = int((stop - step) * _SEGMENT_SECONDS / seconds)
    # Processes that ran different numbers of steps would hang.
    pace = together.agreed(min(max(pace, 1), _SEGMENT_STEPS))
    # Only now: until the losses are finite, `state` must be fit to resume from.
    state.losses[step:stop] = losses
    state, step = after, stop
    run.progress(step, num_steps, f'loss {losses[-1]:.4f}')


def _segment(
  run: _Run, state: _State, step: int, stop: int
) -> tuple[_State, np.ndarray]:
  """Runs the steps from `step` to `stop`; returns the new state and losses."""
  count = stop - step
  sequences = run.sequences(step, count)
  # One shape for every segment, so that one program is compiled.
  padding = ((0, _SEGMENT_STEPS - count), (0, 0))
  padded = np.pad(sequences, padding, mode='edge').astype(np.int32)
  params, optimizer, losses = run.advance(
    state.params, state.optimizer, padded, np.int32(count)
  )
  return _State(params, optimizer, state.losses), np.asarray(losses)[:count]


def _divergence(losses, step, directory) -> str:
  i = int(np.argmin(np.isfinite(losses)))
  return (
    f'A finite loss was expected at step {step + i}, because training cannot '
    f'go on from another; got {losses[i]}. What was reached by step {step} is '
    f'kept in {directory}.'
  )


def _next_stop(run: _Run, step: int, num_steps: int) -> int:
  """The next step at which a checkpoint or a resume state is due."""
  resume = step - step % run.resume_every + run.resume_every
  later = [s for s in run.checkpoint_steps if s > step]
  return min([num_steps, resume, *later])


def _save_checkpoint(run: _Run, state: _State, step: int) -> None:
  """Saves a checkpoint if one is due at `step` and not there yet."""
  folder = run.directory / 'checkpoints'
  if step not in run.checkpoint_steps:
    return
  # Process 0 decides for all, because saving is collective.
  if together.agreed((folder / str(step)).exists()):
    return
  metadata = {
    'run': checked_files.checksum(run.identity),
    'settings': run.identity['settings'],
    'losses': run.evaluate(state.params),
  }
  checkpoints.save(folder, step, state.params, metadata)


def _evaluation(loss_fn, mesh, resident, evaluation, batch_size):
  """Returns `evaluate(params) -> {name: loss}`."""
  program = updates.mean_loss(loss_fn, mesh)
  most = max((len(rows) for rows in evaluation.values()), default=0)
  # All sets are padded to one size, so that one program is compiled.
  size = -(-most // batch_size) * batch_size
  padded = {
    name: np.pad(rows, (0, size - len(rows)), mode='edge')
    .astype(np.int32)
    .reshape(-1, batch_size)
    for name, rows in evaluation.items()
  }

  def evaluate(params):
    return {
      name: float(
        program(params, resident, rows, np.int32(len(evaluation[name])))
      )
      for name, rows in padded.items()
    }

  return evaluate


def _record(run: _Run, state: _State) -> xr.Dataset:
  measured = [_losses(run, step) for step in run.checkpoint_steps]
  names = measured[0] if measured else ()
  evaluation = {name: [losses[name] for losses in measured] for name in names}
  return records.training_record(
    state.losses, run.checkpoint_steps, evaluation, run.identity
  )


def _losses(run: _Run, step: int) -> dict[str, float]:
  """Losses measured at a checkpoint; refuses one of another run."""
  folder = run.directory / 'checkpoints'
  metadata = checkpoints.metadata(folder, step)
  if metadata.get('run') != checked_files.checksum(run.identity):
    raise runs.TrainingError(
      f'A checkpoint of this run was expected at {folder / str(step)}; got one '
      f'of another. Put back a copy, or remove {run.directory} and train again.'
    )
  return metadata['losses']
