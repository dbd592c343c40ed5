"""What a transformer computes, and the names and shapes of its weights.

Weights are a plain nested dict, named as in TransformerLens, head axis first:

  embed.W_E [V, D]                        pos_embed.W_pos [T, D]
  blocks_0.{ln1, ln2}.{w, b} [D]          ... one block a layer
  blocks_0.attn.W_Q [H, D, E], {W_K, W_V} [K, D, E], W_O [H, E, D]
  blocks_0.attn.b_Q [H, E], {b_K, b_V} [K, E], b_O [D]
  blocks_0.attn.{q_norm, k_norm}.w [E]
  blocks_0.mlp.{W_in, W_gate} [D, F], W_out [F, D]
  blocks_0.mlp.{b_in, b_gate} [F], b_out [D]
  ln_final.{w, b} [D]                     unembed.W_U [D, V], b_U [V]

with D = d_model, E = d_head, F = d_mlp. Only those exist that a model has.
"""

import dataclasses
import math

from flax import linen as nn
import jax
import numpy as np

from rllc_jax import types

POSITIONS = ('shortformer', 'learned', 'rotary', 'none')
NORMS = ('layer', 'rms')
ACTIVATIONS = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
}
BIASES = ('b_Q', 'b_K', 'b_V', 'b_O', 'b_in', 'b_gate', 'b_out', 'b_U')
# Query and key heads share one pair of weights each.
_KV_LEAVES = ('W_K', 'W_V', 'b_K', 'b_V')


@dataclasses.dataclass(frozen=True)
class Rotary:
  """Rotary positions: queries and keys turn, pair by pair of dimensions.

  Dimension i of a head turns with i + num_dims / 2.

  Attributes:
    num_dims: those of a head that turn, the first ones.
    base: pair i turns base^(-2i / num_dims) radians a position.
    factor: by which slow turns are slowed, for longer texts than those of
      pretraining.
    range_of_turns: (low, high): pairs that turn fewer times than low in
      `pretrained_length` positions are slowed, those that turn more than high
      are not, as Llama 3.1 has it; () to slow all.
    pretrained_length: positions.
  """

  num_dims: int
  base: float = 1e4
  factor: float = 1.0
  range_of_turns: tuple[float, ...] = ()
  pretrained_length: int = 0

  def __post_init__(self):
    object.__setattr__(self, 'range_of_turns', tuple(self.range_of_turns))

  @property
  def angles(self) -> np.ndarray:
    """Radians a position, [num_dims / 2], float32.

    Examples:
      >>> print(Rotary(4, 100.0).angles)
      [1.  0.1]
    """
    exponents = np.arange(0, self.num_dims, 2).astype(np.float32)
    angles = 1 / np.float32(self.base) ** (exponents / self.num_dims)
    if not self.range_of_turns:
      return angles / np.float32(self.factor)
    low, high = self.range_of_turns
    turns = self.pretrained_length * angles / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    slowed = (1 - kept) * angles / self.factor + kept * angles
    return slowed.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A decoder-only transformer.

  By default the attention-only shortformer of Wang et al. (2410.02984), at the
  paper's size.

  Attributes:
    num_layers: blocks, at least 1.
    num_heads: H, query heads a block.
    d_model: D, width of the residual stream.
    d_head: E, width of a head; it need not be D / H.
    context_length: longest sequence.
    vocab_size: V, tokens.
    num_kv_heads: K, key and value heads a block, each of which H / K query
      heads in a row share; 0 for one each.
    d_mlp: F, width of the MLP; 0 for a model of attention alone.
    gated: whether the MLP is activation(x W_gate) * (x W_in) before W_out.
    activation: one of `ACTIVATIONS`.
    parallel: whether the MLP reads what attention reads, and both are added at
      once; otherwise it reads the stream after attention.
    positions: 'shortformer', learned ones that queries and keys alone read;
      'learned', added to the embedding; 'rotary'; 'none'.
    rotary: how queries and keys turn, where positions are rotary.
    norm: 'layer' or 'rms'.
    norm_epsilon: added to the variance, or to the mean square.
    norm_heads: whether queries and keys of a head pass an RMS norm of their own
      before they turn.
    tied: whether the unembedding is the embedding, transposed.
    biases: those of `BIASES` that the model has.
    score_divisors: one number a layer, by which scores are divided; () for
      sqrt(E).
    windows: one number a layer, how many positions a query sees, its own
      included; 0 for all before it. () for all everywhere.

  Examples:
    >>> Architecture().num_weights
    3355016
  """

  num_layers: int = 2
  num_heads: int = 8
  d_model: int = 256
  d_head: int = 32
  context_length: int = 1024
  vocab_size: int = 5000
  num_kv_heads: int = 0
  d_mlp: int = 0
  gated: bool = False
  activation: str = 'gelu'
  parallel: bool = False
  positions: str = 'shortformer'
  rotary: Rotary | None = None
  norm: str = 'layer'
  norm_epsilon: float = 1e-5
  norm_heads: bool = False
  tied: bool = False
  biases: tuple[str, ...] = BIASES
  score_divisors: tuple[float, ...] = ()
  windows: tuple[int, ...] = ()

  def __post_init__(self):
    # Lists come from JSON; what is compiled is looked up by hash.
    for name in ('biases', 'score_divisors', 'windows'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if isinstance(self.rotary, dict):
      object.__setattr__(self, 'rotary', Rotary(**self.rotary))
    if self.num_kv_heads == self.num_heads:
      object.__setattr__(self, 'num_kv_heads', 0)  # One model, one description.
    _check(self)

  @property
  def kv_heads(self) -> int:
    """K, key and value heads a block."""
    return self.num_kv_heads or self.num_heads

  @property
  def group_size(self) -> int:
    """Query heads that share a key and value head."""
    return self.num_heads // self.kv_heads

  @property
  def heads_come_last(self) -> bool:
    """Whether no MLP reads what the heads of the last layer write."""
    return self.parallel or not self.d_mlp

  @property
  def num_weights(self) -> int:
    """Counts all weights."""
    shapes = jax.tree.leaves(self.shapes())
    return sum(math.prod(leaf.shape) for leaf in shapes)

  def score_divisor(self, layer: int) -> float:
    """What a layer's scores are divided by."""
    if self.score_divisors:
      return self.score_divisors[layer]
    return math.sqrt(self.d_head)

  def window(self, layer: int) -> int:
    """Positions that a query of a layer sees; 0 for all before it."""
    return self.windows[layer] if self.windows else 0

  def shapes(self) -> types.Params:
    """The weights as `jax.ShapeDtypeStruct`, float32."""
    D, V = self.d_model, self.vocab_size
    tree: dict = {'embed': {'W_E': (V, D)}}
    if self.positions in ('shortformer', 'learned'):
      tree['pos_embed'] = {'W_pos': (self.context_length, D)}
    for layer in range(self.num_layers):
      tree[f'blocks_{layer}'] = self._block_shapes()
    tree['ln_final'] = self._norm_shapes(D)
    if not self.tied:
      tree['unembed'] = self._present({'W_U': (D, V), 'b_U': (V,)})
    return _structs(tree)

  def _block_shapes(self):
    D, F = self.d_model, self.d_mlp
    block = {'ln1': self._norm_shapes(D), 'attn': self._attention_shapes()}
    if F:
      mlp = {'W_in': (D, F), 'W_out': (F, D), 'b_in': (F,), 'b_out': (D,)}
      mlp |= {'W_gate': (D, F), 'b_gate': (F,)} if self.gated else {}
      block |= {'ln2': self._norm_shapes(D), 'mlp': self._present(mlp)}
    return block

  def _attention_shapes(self):
    H, D, E = self.num_heads, self.d_model, self.d_head
    matrices = dict.fromkeys(('W_Q', 'W_K', 'W_V'), (H, D, E))
    leaves = matrices | {'W_O': (H, E, D)}
    leaves |= dict.fromkeys(('b_Q', 'b_K', 'b_V'), (H, E)) | {'b_O': (D,)}
    leaves |= {n: (self.kv_heads, *leaves[n][1:]) for n in _KV_LEAVES}
    norms = {'q_norm': {'w': (E,)}, 'k_norm': {'w': (E,)}}
    return self._present(leaves) | (norms if self.norm_heads else {})

  def _norm_shapes(self, size):
    return {'w': (size,)} | ({'b': (size,)} if self.norm == 'layer' else {})

  def _present(self, leaves):
    absent = {*BIASES} - {*self.biases}
    return {name: x for name, x in leaves.items() if name not in absent}


def _structs(tree):
  # Not by jax.tree.map, which sorts: weights are drawn in this order.
  if isinstance(tree, tuple):
    return jax.ShapeDtypeStruct(tree, np.float32)
  return {name: _structs(child) for name, child in tree.items()}


def _check(architecture: Architecture) -> None:
  """Raises unless the numbers describe a model."""
  a = architecture
  choices = {
    'positions': POSITIONS,
    'norm': NORMS,
    'activation': tuple(ACTIVATIONS),
  }
  for name, allowed in choices.items():
    if (value := getattr(a, name)) not in allowed:
      raise ValueError(
        f'{name} must be one of {", ".join(allowed)}; got {value!r}.'
      )
  sizes = ('num_layers', 'num_heads', 'd_model', 'd_head')
  for name in (*sizes, 'context_length', 'vocab_size'):
    size = getattr(a, name)
    if not isinstance(size, int | np.integer) or size < 1:
      raise ValueError(
        f'{name} must be a positive whole number, because it is the size of an '
        f'axis; got {size!r}.'
      )
  if unknown := {*a.biases} - {*BIASES}:
    raise ValueError(
      f'biases must be some of {", ".join(BIASES)}; got {min(unknown)!r}.'
    )
  if a.num_kv_heads < 0 or a.num_heads % a.kv_heads:
    raise ValueError(
      'num_heads must be a multiple of num_kv_heads, because as many query '
      f'heads share each; got {a.num_heads} and {a.num_kv_heads}.'
    )
  for name in ('score_divisors', 'windows'):
    if len(getattr(a, name)) not in (0, a.num_layers):
      raise ValueError(
        f'{name} must hold a number for each of {a.num_layers} layers, or none '
        f'for the usual; got {len(getattr(a, name))}.'
      )
  if (a.positions == 'rotary') != (a.rotary is not None):
    raise ValueError(
      'rotary must be given where positions are rotary, and nowhere else; got '
      f'{a.rotary} for positions {a.positions!r}.'
    )
  dims = a.rotary.num_dims if a.rotary else 2
  if dims % 2 or not 0 < dims <= a.d_head:
    raise ValueError(
      'rotary.num_dims must be an even number of dimensions of a head, at most '
      f'{a.d_head}; got {dims}.'
    )


def check_params(architecture: Architecture, params: types.Params) -> None:
  """Raises unless weights have the names and shapes of an architecture."""
  got, expected = (
    {
      jax.tree_util.keystr(path): np.shape(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (params, architecture.shapes())
  )
  for name in sorted({*got} | {*expected}):
    if got.get(name) != expected.get(name):
      raise ValueError(
        'params must be the weights of the architecture; at '
        f'{name} expected {expected.get(name, "none")}, got '
        f'{got.get(name, "none")}.'
      )


class _Weights(nn.Module):
  """Declares a nested dict of weights, drawn as their names ask for."""

  architecture: Architecture
  names: tuple[str, ...] = ()

  @nn.compact
  def __call__(self):
    tree = self.architecture.shapes()
    for name in self.names:
      tree = tree[name]
    for name, child in tree.items():
      if isinstance(child, dict):
        path = (*self.names, name)
        _Weights(self.architecture, path, name=name)()
      else:
        init = _initializer(name, self.architecture)
        self.param(name, init, child.shape)


def _initializer(name: str, architecture: Architecture):
  if name.startswith('b'):
    return nn.initializers.zeros
  if name == 'w':
    return nn.initializers.ones
  # At the paper's width, 256, a standard deviation of 0.05.
  is_wide = name == 'W_out'
  fan_in = architecture.d_mlp if is_wide else architecture.d_model
  return nn.initializers.normal(0.8 / math.sqrt(fan_in))


def init_params(rng_key: types.Key, architecture: Architecture) -> types.Params:
  """Draws weights. The key is consumed.

  Matrices are N(0, 0.64 / D), W_out is N(0, 0.64 / F), biases are 0, gains 1.
  """
  return _Weights(architecture).init(rng_key)['params']


def to_json(architecture: Architecture) -> dict:
  """Its sizes, and whatever else is not the default: arguments of the class."""
  usual = dataclasses.asdict(Architecture())
  values = dataclasses.asdict(architecture)
  always = list(usual)[:6]  # Sizes.
  return {
    name: list(x) if isinstance(x, tuple) else x
    for name, x in values.items()
    if name in always or x != usual[name]
  }
