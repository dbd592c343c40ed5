"""The flag --executor: who takes the blocks of estimates."""

from collections.abc import Callable
from concurrent import futures
import multiprocessing
from typing import Any, TypeVar

from absl import flags
from absl import logging

_EXECUTOR = flags.DEFINE_string(
  'executor',
  '',
  'Who takes the blocks of estimates: this process by default; "processes:N" '
  'of this machine; or "dask:ADDRESS", the workers of a scheduler of Dask, '
  'such as dask:tcp://node1:8786, which see the workdir under the same path.',
)
_ATTEMPTS = 3
_Result = TypeVar('_Result')


def is_given() -> bool:
  """True if other processes take the blocks."""
  return flags.FLAGS.is_parsed() and bool(_EXECUTOR.value)


def use(act: Callable[[futures.Executor | None], _Result]) -> _Result:
  """Calls a function with the executor of the flag, or with None.

  Raises:
    ValueError: if the flag is malformed, or processes die again and again.
  """
  if not is_given():
    return act(None)
  kind, _, value = _EXECUTOR.value.partition(':')
  if kind == 'processes' and value.isdecimal() and int(value):
    return _in_processes(act, int(value))
  if kind == 'dask' and value:
    with _dask_client(value) as client:
      # Not pure: a task that is given out again must run again.
      return act(client.get_executor(pure=False))
  raise ValueError(
    '--executor must be processes:N, such as processes:4, or dask:ADDRESS, '
    'such as dask:tcp://node1:8786, because these schedule blocks; got '
    f'{_EXECUTOR.value!r}.'
  )


def _in_processes(
  act: Callable[[futures.Executor], _Result], count: int
) -> _Result:
  # Not forked: JAX has threads by now.
  context = multiprocessing.get_context('spawn')
  for _ in range(_ATTEMPTS):
    try:
      with futures.ProcessPoolExecutor(count, mp_context=context) as pool:
        return act(pool)
    except futures.BrokenExecutor:  # One of its processes was killed.
      logging.warning('a process died; all begin again where they were')
  raise ValueError(
    f'--executor=processes:{count} must have processes that live; got one that '
    f'died, {_ATTEMPTS} times. See that there is memory for {count}; what is '
    'done stays.'
  )


def _dask_client(address: str) -> Any:
  try:
    import distributed  # pyrefly: ignore[missing-import]
  except ImportError:
    raise ValueError(
      '--executor=dask needs Dask; got none. Run pip install '
      "'rllc_jax[cluster]'."
    ) from None
  try:
    return distributed.Client(address)
  except OSError as error:
    raise ValueError(
      f'--executor must name a scheduler that answers; got {address}: {error}.'
    ) from None
