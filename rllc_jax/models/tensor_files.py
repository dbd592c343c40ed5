"""Files of tensors: safetensors, alone or in shards, and those of PyTorch."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import pathlib
from typing import Any

import ml_dtypes  # Gives NumPy bfloat16.
import numpy as np
import safetensors

_INDEX, _WHOLE = 'model.safetensors.index.json', 'model.safetensors'
_PYTORCH = 'pytorch_model.bin'
_HALVES = (np.dtype('float16'), np.dtype(ml_dtypes.bfloat16))


def paths(directory: pathlib.Path) -> list[pathlib.Path]:
  """The files that hold the tensors of a model.

  Raises:
    ValueError: if there are none, or one that the index names is missing.
  """
  if (directory / _INDEX).exists():
    shards = {*read_json(directory / _INDEX)['weight_map'].values()}
    files = [directory / name for name in sorted(shards)]
    for path in files:
      if not path.is_file():
        raise ValueError(
          f'{directory} must hold every file that {_INDEX} names; got no '
          f'{path.name}. Download it again.'
        )
    return files
  for name in (_WHOLE, _PYTORCH):
    if (directory / name).is_file():
      return [directory / name]
  raise ValueError(
    f'{directory} must hold {_WHOLE}, {_INDEX} or {_PYTORCH}, the weights of a '
    f'model; got {_listed(directory)}.'
  )


def _listed(directory: pathlib.Path) -> str:
  if not directory.is_dir():
    return 'no directory'
  names = sorted(path.name for path in directory.iterdir())
  return ', '.join(names[:6]) + (', ...' if len(names) > 6 else '') or 'nothing'


def read_json(path: pathlib.Path) -> dict:
  """The object in a JSON file.

  Raises:
    ValueError: if there is none.
  """
  try:
    value = json.loads(path.read_text('utf-8'))
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} must be a JSON file, which describes a model; {error}.'
    ) from error
  if not isinstance(value, dict):
    raise ValueError(f'{path} must hold a JSON object; got {value!r:.80}.')
  return value


def read(files: Sequence[pathlib.Path]) -> Iterator[tuple[str, np.ndarray]]:
  """Names and tensors, one at a time.

  Raises:
    ValueError: if a file is damaged.
  """
  for path in files:
    if path.name == _PYTORCH:
      yield from _read_pytorch(path).items()
      continue
    try:
      with safetensors.safe_open(path, framework='numpy') as file:
        for name in file.keys():
          yield name, file.get_tensor(name)
    except (OSError, safetensors.SafetensorError) as error:
      raise ValueError(
        f'{path} must be a whole safetensors file; {error}. Download it again.'
      ) from error


def _read_pytorch(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  try:
    # pyrefly: ignore[missing-import]
    import torch  # Optional: only old files need it.
  except ImportError as error:
    raise ValueError(
      f'{path} needs the package torch to be read, which is not installed. '
      'Install rllc_jax[torch], or save the model anew as safetensors.'
    ) from error
  try:
    # weights_only: a pickle may run any code.
    tensors = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # torch raises no common type.
    raise ValueError(
      f'{path} must be a whole file of weights alone; {error!s:.200}'
    ) from error
  return {name: as_numpy(x) for name, x in tensors.items()}


def as_numpy(tensor: Any) -> np.ndarray:
  """A tensor of PyTorch, or an array, as NumPy's."""
  if not hasattr(tensor, 'detach'):
    return np.asarray(tensor)
  tensor = tensor.detach().cpu()
  if str(tensor.dtype) == 'torch.bfloat16':  # NumPy has none of its own.
    return (
      tensor.view(tensor.new_empty(0).short().dtype)
      .numpy()
      .view(ml_dtypes.bfloat16)
    )
  return tensor.numpy()


def as_float32(name: str, tensor: np.ndarray, dtype: str | None) -> np.ndarray:
  """A tensor in float32.

  Args:
    name: of the tensor, for a message.
    tensor: float32, or of another floating type if it is asked for.
    dtype: 'float32' to take tensors of less or more.

  Raises:
    ValueError: if it is of another type, and that was not asked for.
  """
  if tensor.dtype == np.float32:
    return tensor
  is_float = tensor.dtype in _HALVES or tensor.dtype == np.float64
  if not is_float or dtype != 'float32':
    raise ValueError(
      'Weights must be float32, because steps are too small for less; got '
      f"{tensor.dtype} in {name}. Give dtype='float32' to widen them: they "
      'keep the rounding that they have.'
    )
  return tensor.astype(np.float32)


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
  """Puts the directory before the message of a ValueError."""
  try:
    yield
  except ValueError as error:
    if str(error).startswith(str(path)):
      raise
    raise ValueError(f'{path}: {error}') from error
