"""Models in Hugging Face's form: a directory of `config.json` and weights.

Directories are read, nothing is downloaded: `huggingface_hub` does that,

  huggingface_hub.snapshot_download('EleutherAI/pythia-14m', revision='step512')

Weights are taken as they are: nothing is folded or centered, because an rLLC is
measured in the coordinates of the weights.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import hashlib
import json
import pathlib
import re

import jax
import numpy as np
import safetensors.numpy

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.models import architecture as architectures
from rllc_jax.models import model_configs
from rllc_jax.models import tensor_files
from rllc_jax.models import tensor_layouts

Architecture = architectures.Architecture


def load_config(
  directory: str | pathlib.Path,
) -> tuple[model_configs.Family, Architecture]:
  """The family and the architecture of the model in a directory.

  Raises:
    ValueError: as `load`.
  """
  directory = pathlib.Path(directory)
  path = directory / 'config.json'
  if not path.is_file():
    raise ValueError(
      f'{directory} must be the directory of a Hugging Face model, with '
      'config.json; got none.'
    )
  with tensor_files.named(directory):
    return model_configs.read(tensor_files.read_json(path))


def load(
  directory: str | pathlib.Path, *, dtype: str | None = None
) -> tuple[Architecture, types.Params]:
  """Loads a model of GPT-2, GPT-NeoX, GPT-Neo, Llama, Qwen2 or Qwen3.

  Args:
    directory: with `config.json` and `model.safetensors`, or its shards, or
      `pytorch_model.bin`, for which torch must be installed.
    dtype: 'float32' to widen weights that are stored in half precision.

  Returns:
    (architecture, params): a nested dict of float32 NumPy arrays, named as in
    `models.architecture`.

  Raises:
    ValueError: if the model is of another family or computes what is not
      computed here, weights are missing, surplus, of another shape or type, or
      a file is damaged.
  """
  directory = pathlib.Path(directory)
  family, architecture = load_config(directory)
  expected = {tensor.name: tensor for tensor in _tensors(family, architecture)}
  params: dict = {}
  left = dict(expected)
  tied = None
  with tensor_files.named(directory):
    for name, array in tensor_files.read(tensor_files.paths(directory)):
      name = name.removeprefix(family.prefix)
      if name == family.unembedding and architecture.tied:
        tied = array
      elif name in left:
        array = tensor_files.as_float32(name, array, dtype)
        tensor_layouts.put(params, left.pop(name), array)
      elif not re.fullmatch(family.buffers, name):
        raise ValueError(
          'Tensors must be those of the config, because one that is not '
          f'may change what the model computes; got {name} '
          f'{list(array.shape)}.'
        )
    if left:
      raise ValueError(
        f'Tensors must be those of the config; got no {min(left)}, and '
        f'{len(left) - 1} others are missing.'
      )
    if tied is not None:
      _check_tied(tied, params)
  return architecture, params


def _check_tied(array: np.ndarray, params: types.Params) -> None:
  if not np.array_equal(array.astype(np.float32), params['embed']['W_E']):
    raise ValueError(
      'The unembedding must be the embedding, because config.json has '
      'tie_word_embeddings; got another one. Set it to false there, if the '
      'model has two.'
    )


def _tensors(
  family: model_configs.Family, architecture: Architecture
) -> list[tensor_layouts.Tensor]:
  """All tensors that hold weights, named without the family's prefix."""
  shape = architecture.vocab_size, architecture.d_model
  unembedding = tensor_layouts.transposed(
    family.unembedding, shape, ('unembed', 'W_U')
  )
  tensors = [*family.tensors(architecture), unembedding]
  return tensor_layouts.present(tensors, architecture)


def save(
  directory: str | pathlib.Path,
  architecture: Architecture,
  params: types.Params,
) -> None:
  """Writes a model that `transformers` opens; `load` gives it back bit by bit.

  Args:
    directory: made if it is not there.
    architecture: one that a family computes: an MLP in each layer, positions
      that are rotary or learned and added to the embedding.
    params: its weights.

  Raises:
    ValueError: if no family computes it, or weights have other shapes.
  """
  family, config = model_configs.write(architecture)
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  architectures.check_params(architecture, params)
  arrays = {}
  for tensor in _tensors(family, architecture):
    leaves = [
      np.asarray(functools.reduce(lambda tree, key: tree[key], path, params))
      for path in tensor.paths
    ]
    is_outer = tensor.name == family.unembedding
    name = tensor.name if is_outer else family.prefix + tensor.name
    arrays[name] = np.ascontiguousarray(tensor.join(*leaves))
  path = directory / 'model.safetensors'
  safetensors.numpy.save_file(arrays, path, metadata={'format': 'pt'})
  text = json.dumps({**config, 'torch_dtype': 'float32'}, indent=1)
  (directory / 'config.json').write_text(text + '\n', 'utf-8')


def trajectory(
  directories: Mapping[int, str | pathlib.Path] | Sequence[str | pathlib.Path],
  *,
  dtype: str | None = None,
) -> tuple[Architecture, types.Trajectory]:
  """The checkpoints of a training run, one directory each.

  Args:
    directories: by training step; or a sequence of directories whose names end
      in it, such as `pathlib.Path('pythia').glob('step*')`.
    dtype: as of `load`.

  Returns:
    (architecture, trajectory), which loads one checkpoint at a time. The
    fingerprint of a checkpoint is a hash of its files.

  Raises:
    ValueError: if there are none, a name has no step, or architectures differ.
  """
  paths = by_step(directories)
  architectures_of_steps = {
    step: load_config(path)[1] for step, path in paths.items()
  }
  first = min(paths)
  architecture = architectures_of_steps[first]
  for step, other in architectures_of_steps.items():
    if other != architecture:
      raise ValueError(
        'The checkpoints of a trajectory must be of one architecture; got '
        f'another one in {paths[step]} than in {paths[first]}.'
      )

  def checked(step):
    params = load(paths[step], dtype=dtype)[1]
    _check_finite(paths[step], params)
    return params, _hash(paths[step])

  # Checked once for all: a store keeps the fingerprints of a run from its
  # beginning on, and would refuse the repaired files of a damaged checkpoint.
  fingerprint = functools.cache(lambda step: checked(step)[1])

  def load_step(step):
    params, hash_of_files = checked(step)
    if hash_of_files != fingerprint(step):
      raise ValueError(
        f'{paths[step]} must stay as it is during a run, because results are '
        'kept under its step; its files have changed.'
      )
    return params

  load_steps = lambda steps: trees.stack([load_step(step) for step in steps])
  return architecture, types.Trajectory(sorted(paths), load_steps, fingerprint)


def _check_finite(path: pathlib.Path, params: types.Params) -> None:
  for place, leaf in jax.tree_util.tree_leaves_with_path(params):
    if not np.isfinite(leaf).all():
      raise ValueError(
        f'{path} must hold finite weights; got others at '
        f'{jax.tree_util.keystr(place)}.'
      )


def by_step(
  directories: Mapping[int, str | pathlib.Path] | Sequence[str | pathlib.Path],
) -> dict[int, pathlib.Path]:
  """Directories by training step; argument and errors as of `trajectory`."""
  if isinstance(directories, Mapping):
    return {int(s): pathlib.Path(path) for s, path in directories.items()}
  paths: dict[int, pathlib.Path] = {}
  for path in map(pathlib.Path, directories):
    match = re.search(r'(\d+)$', path.name)
    if not match:
      raise ValueError(
        'Directories of checkpoints must have names that end in the training '
        f'step, such as step512; got {path.name}. Or give a dict, '
        '{512: directory}.'
      )
    if int(match[1]) in paths:
      raise ValueError(
        f'Each training step must have one directory; got {path} and '
        f'{paths[int(match[1])]}.'
      )
    paths[int(match[1])] = path
  if not paths:
    raise ValueError('A trajectory must have checkpoints; got no directory.')
  return paths


def _hash(directory: pathlib.Path) -> str:
  """A 128-bit hash of the files of a checkpoint."""
  digest = hashlib.blake2b(digest_size=16)
  for path in [directory / 'config.json', *tensor_files.paths(directory)]:
    digest.update(path.name.encode())
    with path.open('rb') as file:
      digest.update(hashlib.file_digest(file, 'blake2b').digest())
  return digest.hexdigest()
