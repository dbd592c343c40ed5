"""The transformer in PyTorch, sampled by devinterp 2, for comparisons.

Importing it needs torch and devinterp (the extra `bench`). The model uses
LayerNorm, attention and optimizer of PyTorch: it shares the weights with ours,
through NumPy, and no arithmetic.
"""

from collections.abc import Callable
import contextlib
import io
import pathlib
import tempfile
import time
from typing import Any, NamedTuple
import warnings

# pyrefly: ignore[missing-import]
from devinterp.slt import llc

# pyrefly: ignore[missing-import]
from devinterp.slt import sampling

# pyrefly: ignore[missing-import]
from devinterp.slt import weight_restrictions
import jax
import numpy as np

# pyrefly: ignore[missing-import]
import torch

# pyrefly: ignore[missing-import]
import transformers

from rllc_jax import types
from rllc_jax.models import transformer

_functional: Any = torch.nn.functional


class AttentionOnly(torch.nn.Module):
  """The default `Architecture` in PyTorch, with parameters named by leaf paths.

  A leaf keeps its head axis, so a head is a mask over whole parameters.
  """

  def __init__(self, params: types.Params):
    super().__init__()
    for name, leaf in named_leaves(params).items():
      # Copied: a chain must not write into our weights.
      tensor = torch.tensor(np.array(leaf, np.float32))
      self.register_parameter(name, torch.nn.Parameter(tensor))
    self.num_layers = sum(name.startswith('blocks_') for name in params)

  def forward(self, tokens):
    """Maps tokens [B, T] to logits [B, T, V]."""
    w = dict(self.named_parameters())
    residual = w['embed/W_E'][tokens]
    positions = w['pos_embed/W_pos'][: tokens.shape[1]]
    for layer in range(self.num_layers):
      block = f'blocks_{layer}'
      normed = _layer_norm(w, f'{block}/ln1', residual)
      residual = residual + _attend(w, f'{block}/attn', normed, positions)
    normed = _layer_norm(w, 'ln_final', residual)
    return normed @ w['unembed/W_U'] + w['unembed/b_U']


def _layer_norm(w, name, x):
  gain, bias = w[f'{name}/w'], w[f'{name}/b']
  epsilon = transformer.Architecture().norm_epsilon
  return _functional.layer_norm(x, gain.shape, gain, bias, epsilon)


def _attend(w, name, x, positions):
  def project(x, letter):  # [B, T, D] -> [B, H, T, E]
    product = torch.einsum('btd,hde->bhte', x, w[f'{name}/W_{letter}'])
    return product + w[f'{name}/b_{letter}'][:, None]

  q, k = (project(x + positions, letter) for letter in 'QK')
  values = _functional.scaled_dot_product_attention(
    q, k, project(x, 'V'), is_causal=True
  )
  written = torch.einsum('bhte,hed->btd', values, w[f'{name}/W_O'])
  return written + w[f'{name}/b_O']


def set_num_threads(count: int) -> None:
  """Sets the number of threads of a PyTorch operation on the CPU."""
  torch.set_num_threads(count)


def set_matmul_precision(name: str) -> None:
  """Sets the precision of products on a GPU: 'float32' or 'tensorfloat32'."""
  torch.set_float32_matmul_precision('highest' if name == 'float32' else 'high')


def named_leaves(tree: types.PyTree) -> dict[str, np.ndarray]:
  """Leaves of a tree by their path, such as 'blocks_0/attn/W_Q'."""
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {name(path): np.asarray(leaf) for path, leaf in leaves}


def parameter_masks(mask: types.PyTree) -> dict[str, Any]:
  """Converts a boolean tree like the weights to the masks of devinterp.

  A parameter that moves as a whole has the mask None; a fixed one is left out.
  """
  masks = {}
  for name, leaf in named_leaves(mask).items():
    if leaf.any():
      masks[name] = None if leaf.all() else torch.tensor(np.array(leaf))
  return masks


def _is_made(mask: Any) -> bool:
  """Whether a mask is devinterp's already: tensors by name of a parameter."""
  return isinstance(mask, dict) and all(
    leaf is None or isinstance(leaf, torch.Tensor) for leaf in mask.values()
  )


def logits(model: AttentionOnly, tokens: np.ndarray) -> np.ndarray:
  """Logits of the model, [B, T] -> [B, T, V]."""
  with torch.no_grad():
    return model(torch.tensor(np.asarray(tokens, np.int64))).numpy()


def batch_order(seed: int, num_sequences: int, batch_size: int) -> np.ndarray:
  """Indices of the sequences in devinterp's minibatches, [num_batches, B].

  devinterp seeds its loader with the seed of the run, and repeats the first
  epoch.
  """
  loader = torch.utils.data.DataLoader(
    range(num_sequences),
    batch_size=batch_size,
    shuffle=True,
    drop_last=True,
    generator=torch.Generator(device='cpu').manual_seed(seed),
  )
  return np.stack([batch.numpy() for batch in loader])


class Samples(NamedTuple):
  """Results of a devinterp run.

  Attributes:
    llc: its estimate, over all chains.
    losses: [C, D], of every step's minibatch, before the step.
    tokens: [C, D, B, T], the minibatches.
  """

  llc: float
  losses: np.ndarray
  tokens: np.ndarray


def sample(
  model: AttentionOnly,
  tokens: np.ndarray,
  mask: types.PyTree,
  *,
  device: str = 'cpu',
  **options,
) -> Samples:
  """Runs devinterp's `sample` and `compute_llc`.

  Chain c draws noise with the seed `init_seed` + c, so seeds of independent
  runs must be at least as far apart as there are chains.

  Args:
    model: at the checkpoint; not changed.
    tokens: [N, T], the data set.
    mask: a boolean tree like the weights, True for those that move.
    device: of PyTorch.
    **options: of devinterp's `sample`.

  Raises:
    ValueError: if a chain failed, since devinterp averages the rest.
  """
  sequences = [
    {'input_ids': row} for row in torch.tensor(np.asarray(tokens, np.int64))
  ]
  with _quiet(), tempfile.TemporaryDirectory() as directory:
    # A new directory for each run: devinterp reuses saved samples even if
    # model, data or masks differ.
    samples = sampling.sample(
      model,
      sequences,
      observables={},
      param_masks=mask if _is_made(mask) else parameter_masks(mask),
      device=device,
      output_path=pathlib.Path(directory) / 'samples.zarr',
      **options,
    )
    reduced = llc.compute_llc(samples)
    losses = reduced.loss_trace.values
    batches = samples.dataset.sampling_input_ids_micro.values
  if not np.isfinite(losses).all():
    raise ValueError(
      'Chains of devinterp must stay finite to be compared; got losses that '
      'are not. Lower the step size.'
    )
  return Samples(float(reduced.llc_mean), losses, batches)


class Clock(NamedTuple):
  """Times of a run, from the moments at which it calls the model.

  Attributes:
    init: seconds of the batches at the checkpoint; for a single batch, the time
      between it and the chain is included.
    steps: [D - 1], seconds from each step of the chain to the next.
  """

  init: float
  steps: np.ndarray

  @property
  def total(self) -> float:
    """Seconds of all batches and steps, with the mean for the last step."""
    num_steps = len(self.steps) + 1
    return self.init + float(np.mean(self.steps)) * num_steps


def timed_sample(
  model: AttentionOnly, tokens: np.ndarray, mask: types.PyTree, **options
) -> tuple[Samples, Clock]:
  """Times `sample` of one chain from one call of the model to the next.

  Work of devinterp before the first batch and after the last step does not
  count. On a GPU kernels still run when a call returns: there only means over
  many steps are meaningful.

  Args:
    model: as for `sample`.
    tokens: as for `sample`.
    mask: as for `sample`.
    **options: as for `sample`; needs `num_draws` and `num_init_loss_batches`.

  Raises:
    ValueError: if the model was called another number of times.
  """
  times = []
  stamp = lambda *_: times.append(time.perf_counter())
  hook = model.register_forward_pre_hook(stamp)
  try:
    samples = sample(model, tokens, mask, num_chains=1, **options)
  finally:
    hook.remove()
  first = options['num_init_loss_batches']
  expected = first + options['num_draws']
  if len(times) != expected:
    raise ValueError(
      f'devinterp must call the model once a batch and step, {expected} times, '
      f'to be timed by its calls; got {len(times)}. Is it another version?'
    )
  # Differences of batches: after the last one devinterp copies the model,
  # collects garbage and reopens its loader, which is not part of a batch.
  batch = np.diff(times[: max(first, 2)]).mean()
  return samples, Clock(first * float(batch), np.diff(times[first:]))


def steps_of_huggingface(
  directory: pathlib.Path, tokens: np.ndarray, part: str, batch_size: int
) -> Callable[[int], float]:
  """A call that returns devinterp's seconds a step on a model's files.

  Args:
    directory: of a model of Hugging Face, which transformers opens.
    tokens: [N, T + 1], the data set: it predicts from all but the last.
    part: 'LAYER:HEAD' or 'LAYER:mlp'; devinterp makes the mask.
    batch_size: sequences a step.
  """
  model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
  layer, _, name = part.partition(':')
  own_name = f'l{layer}h{name}' if name.isdigit() else f'l{layer} {name}'
  masks = weight_restrictions.create_param_masks(model, own_name)

  def seconds_a_step(num_steps):
    _, clock = timed_sample(
      model,
      tokens,
      masks,
      lr=1e-3,
      n_beta=30.0,
      localization=200.0,
      batch_size=batch_size,
      num_draws=num_steps,
      num_init_loss_batches=1,
      init_seed=0,
    )
    return float(clock.steps.mean())

  return seconds_a_step


@contextlib.contextmanager
def _quiet():
  """Hides devinterp's progress bars and the warnings of its libraries."""
  with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter('ignore')
    yield
