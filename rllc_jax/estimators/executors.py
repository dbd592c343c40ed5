"""Blocks as tasks of any `concurrent.futures.Executor`, on any machine.

A task is some rows and some refinements of a family. It looks into the store
for what they lack, takes that and writes it there, so it can be given out again
whenever its worker dies. Nothing but its coordinates travels with it: what all
tasks share lies in the store as long as the run, known by its hash.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import functools
import hashlib
import math
from typing import Any, NamedTuple
import warnings

import cloudpickle
import jax

from rllc_jax.estimators import blocks
from rllc_jax.estimators import loading
from rllc_jax.estimators import missing
from rllc_jax.estimators import request as requests
from rllc_jax.results import disk
from rllc_jax.results import store as stores

Progress = Callable[[int, int], None]  # progress(done, total), in draws.
_LEAST_TASKS = 96  # Or the last of unequal workers would work alone for long.
_MOST_SUBMITTED = 1000
_ATTEMPTS = 3
_POLL_SECONDS = 1.0
# Settings of JAX that numbers or the time to compile depend on.
_CONFIG = (
  'jax_enable_x64',
  'jax_threefry_partitionable',
  'jax_default_matmul_precision',
  'jax_compilation_cache_dir',
  'jax_persistent_cache_min_compile_time_secs',
)


class Task(NamedTuple):
  """A part of a run, by its coordinates.

  Attributes:
    place: of the store.
    recipe: SHA-256 of what all tasks share.
    family: the number of a family of refinements.
    names: those of its refinements that are the task's.
    rows: checkpoints on data sets.
  """

  place: str
  recipe: str
  family: int
  names: tuple[str, ...]
  rows: tuple[stores.Row, ...]

  def __str__(self) -> str:
    (step, dataset), more = self.rows[0], len(self.rows) - 1
    rows = f'step {step} on {dataset}' + f' and {more} more' * bool(more)
    return f'{rows}, {self.names[0]} to {self.names[-1]}'


class Recipe(NamedTuple):
  """What all tasks of a run share.

  Attributes:
    spec: of the run; its key as numbers.
    hashes: of the checkpoints, if these have no fingerprints.
    keep_chains: of the store.
    config: settings of JAX.
  """

  spec: requests.Spec
  hashes: Mapping[str, str] | None
  keep_chains: bool
  config: Mapping[str, Any]


def fill(
  request: requests.Request,
  store: disk.DiskStore,
  executor: futures.Executor,
  progress: Progress,
) -> None:
  """Has the draws that a store lacks taken by an executor's workers.

  Args:
    request: from `request.check`.
    store: that a run has begun.
    executor: runs functions in processes that see the store.
    progress: draws done, and in all.

  Raises:
    ValueError: if something cannot be pickled, or a task failed three times;
      the others are finished first.
  """
  pickled = _pickled(request, store)
  digest = hashlib.sha256(pickled).hexdigest()
  path = store.path / 'at_work' / f'{digest}.tasks'
  path.write_bytes(pickled)
  try:
    tasks, done = _tasks(request, store, digest)
    total = done + sum(tasks.values())
    before = done - store.num_draws()
    say = lambda: progress(min(total, before + store.num_draws()), total)
    say()
    failures = _run_all(executor, [*tasks], store, say)
  finally:
    path.unlink(missing_ok=True)
  if failures:
    task, error = failures[0]
    raise ValueError(
      f'All blocks must succeed; got {len(failures)} that failed {_ATTEMPTS} '
      f'times, such as {task}: {type(error).__name__}: '
      f'{" ".join(str(error).split())[:300]}. The rest is done; the same '
      'command takes what is missing.'
    ) from error


def _run_all(
  executor: futures.Executor, tasks: list[Task], store: Any, say: Any
) -> list[tuple[Task, BaseException]]:
  """Runs tasks; those that fail, again. Returns those that failed for good."""
  waiting = [(task, 1) for task in reversed(tasks)]
  running: dict[futures.Future, tuple[Task, int]] = {}
  failures = []
  try:
    while waiting or running:
      while waiting and len(running) < _MOST_SUBMITTED:
        item = waiting.pop()
        running[executor.submit(run_task, item[0])] = item
      ended, _ = futures.wait(running, _POLL_SECONDS, futures.FIRST_COMPLETED)
      for future in ended:
        task, attempt = running.pop(future)
        error = future.exception()
        if isinstance(error, futures.BrokenExecutor):
          raise error
        if error is not None and attempt < _ATTEMPTS:
          warnings.warn(f'{task} is done again: {error}', stacklevel=2)
          waiting.append((task, attempt + 1))
        elif error is not None:
          failures.append((task, error))
      store.refresh()
      say()
  finally:
    for future in running:  # Of a run that is stopped.
      future.cancel()
  return failures


def run_task(task: Task) -> int:
  """Takes the draws that a task lacks; returns how many."""
  request, store, hashes = _joined(task.place, task.recipe)
  store.join(request.extent, request.made_with)
  family = request.spec.refinements[task.family]
  works, _ = missing.plan(
    missing.Held(store.recorded, store.read),
    [family],
    request.job.sampling,
    task.rows,
    request.job.rows_per_block,
    names=task.names,
  )
  done = 0
  for work, params in loading.loaded_ahead(
    request.spec.trajectory, works, request.job.rows_per_block, hashes
  ):
    for taken in blocks.run_block(request.job, work, params, store):
      done += taken.draws
  return done


@functools.lru_cache(maxsize=1)  # Programs are compiled once a process.
def _joined(
  place: str, digest: str
) -> tuple[requests.Request, disk.DiskStore, Mapping[str, str] | None]:
  """The run that a task is part of, and its store.

  Raises:
    ValueError: if what tasks share is not what the run has written.
  """
  store = disk.open_store(place)
  data = (store.path / 'at_work' / f'{digest}.tasks').read_bytes()
  # What is unpickled can do anything: the hash came from the run itself.
  if hashlib.sha256(data).hexdigest() != digest:
    raise ValueError(
      f'{place} must hold what its run shares with this worker; got other '
      'bytes. Run the same command again.'
    )
  recipe: Recipe = cloudpickle.loads(data)
  for name, value in recipe.config.items():
    jax.config.update(name, value)
  key = jax.random.wrap_key_data(recipe.spec.rng_key, impl='threefry2x32')
  request = requests.of_worker(recipe.spec._replace(rng_key=key))
  store = disk.open_store(place, keep_chains=recipe.keep_chains)
  return request, store, recipe.hashes


def _pickled(request: requests.Request, store: disk.DiskStore) -> bytes:
  """What all tasks share.

  Raises:
    ValueError: naming what cannot be sent to another process.
  """
  spec = request.spec
  if spec.layout.mesh is not None:
    raise ValueError(
      'layout.mesh must be None with an executor, because workers have devices '
      'of their own; got a mesh.'
    )
  # Typed keys are not pickled.
  spec = spec._replace(rng_key=jax.random.key_data(spec.rng_key))
  for name, value in spec._asdict().items():
    try:
      cloudpickle.dumps(value)
    except Exception as error:  # Whatever an object's own code raises.
      raise ValueError(
        f'{name} must be something that can be pickled, because workers of an '
        f'executor get it; got {type(error).__name__}: '
        f'{" ".join(str(error).split())[:200]}.'
      ) from error
  hashes = None if spec.trajectory.fingerprint else request.identity['params']
  config = {name: getattr(jax.config, name) for name in _CONFIG}
  return cloudpickle.dumps(Recipe(spec, hashes, store.keep_chains, config))


def _tasks(
  request: requests.Request, store: disk.DiskStore, digest: str
) -> tuple[dict[Task, int], int]:
  """Tasks with the draws that they lack, and the draws that there are."""
  rows = store.owned_rows(request.extent.rows())
  size = request.job.rows_per_block
  batches = [tuple(rows[i : i + size]) for i in range(0, len(rows), size)]
  families = request.spec.refinements
  groups = math.ceil(_LEAST_TASKS / max(1, len(batches) * len(families)))
  held, tasks, done = missing.Held(store.recorded, store.read), {}, 0
  for batch in batches:
    for number, family in enumerate(families):
      for names in _split(family.names, groups):
        works, num_held = missing.plan(
          held, [family], request.job.sampling, batch, size, names=names
        )
        done += num_held
        if works:
          task = Task(str(store.path.absolute()), digest, number, names, batch)
          tasks[task] = sum(work.num_missing for work in works)
  return tasks, done


def _split(names: Sequence[str], groups: int) -> Iterator[tuple[str, ...]]:
  """Names in so many groups, or one each."""
  size = max(1, len(names) // groups)
  for first in range(0, len(names), size):
    yield tuple(names[first : first + size])
