"""The types that the stages of the pipeline hand to one another.

Dimension key, used by every docstring:

  K  rows: checkpoints x data sets     N  columns: refinements x chains
  R  refinements                       C  chains
  D  draws: recorded steps of a chain  d  coordinates that move
  B  sequences per minibatch           T  tokens per sequence
  H  heads per layer                   V  vocabulary

A loss is a mean over predicted tokens, in nats. `nbeta` is a number of samples.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Key = jax.Array  # A typed key, from `jax.random.key`, of shape [].
PyTree = Any
Params = PyTree  # Every weight of the model, w.
Position = PyTree  # The weights that move, u.
Index = PyTree  # Which refinement of a family: traced.
Batch = PyTree  # Leaves share a leading axis [B].
Context = PyTree  # What no chain can change, given weights and a minibatch.

LossFn = Callable[[Params, Batch], Array]
Draw = Callable[[Key, Array, PyTree, PyTree], Batch]  # key, step, data, window.
Observe = Callable[[Position, Context], Mapping[str, Array]]


class Lens(NamedTuple):
  """A family of weight refinements of one shape.

  Attributes:
    extract: `extract(params, index) -> position`.
    insert: `insert(position, params, index) -> params`; what lies outside the
      refinement comes from the second argument, untouched.
  """

  extract: Callable[[Params, Index], Position]
  insert: Callable[[Position, Params, Index], Params]


class RefinedLoss(NamedTuple):
  """A loss in two halves.

  Attributes:
    context: `context(params, batch) -> (context, center_loss [])`: what no
      chain can change, and the loss at the checkpoint from the same pass.
    loss: `loss(position, context, index) -> []`: what the moving weights do.
    driven_by: like `loss`: what the gradient of `loss` is the gradient of, if
      that is another function on purpose, as with control variates.
    check: `check(params, data)` raises ValueError where data on the host cannot
      be read by this loss, such as token ids outside the vocabulary.
  """

  context: Callable[[Params, Batch], tuple[Context, Array]]
  loss: Callable[[Position, Context, Index], Array]
  driven_by: Callable[[Position, Context, Index], Array] | None = None
  check: Callable[[Params, PyTree], None] | None = None


class ProbeLosses(NamedTuple):
  """The losses of single items in two halves, such as those of tokens.

  Attributes:
    context: `context(params, items) -> context`: what no chain can change.
    losses: `losses(position, context, index) -> [Z]`, one an item.
  """

  context: Callable[[Params, Batch], Context]
  losses: Callable[[Position, Context, Index], Array]


class Refinements(NamedTuple):
  """The refinements of one family: one block program.

  Attributes:
    names: R canonical names; coordinates of the results, addresses of noise.
    lens: the lens that they share.
    indices: leaves [R, ...], the index of each.
    loss: the two-half loss that they share.
  """

  names: tuple[str, ...]
  lens: Lens
  indices: Index
  loss: RefinedLoss


def as_families(
  refinements: Sequence[Refinements] | Refinements,
) -> list[Refinements]:
  """A list of families, from one or several."""
  is_one = isinstance(refinements, Refinements)
  return [refinements] if is_one else list(refinements)


class Window(NamedTuple):
  """A data set: consecutive sequences of the resident array.

  Attributes:
    start: [], the first sequence.
    length: [], how many.
  """

  start: Array | int
  length: Array | int


class WeightedWindow(NamedTuple):
  """A data set whose predictions do not count alike.

  Attributes:
    start: [], the first sequence.
    length: [], how many.
    table: [256], the weight of a predicted token by its class; the mean over
      the data set is 1.
  """

  start: Array | int
  length: Array | int
  table: Array | np.ndarray


class ClassedTokens(NamedTuple):
  """Resident sequences whose tokens have classes.

  Attributes:
    tokens: [N, T], integers.
    classes: [N, T], uint8, of the token that stands there.
  """

  tokens: Array | np.ndarray
  classes: Array | np.ndarray


class WeightedTokens(NamedTuple):
  """A batch whose predictions do not count alike.

  A loss divides by their number, not by their weight in the batch: weights
  average 1 over the data set, so minibatch losses stay unbiased.

  Attributes:
    tokens: [B, T], integers.
    weights: [B, T], of predicting the token that stands there.
  """

  tokens: Array
  weights: Array


class Minibatches(NamedTuple):
  """Data, and how a minibatch is drawn from it.

  Attributes:
    data: resident arrays; they enter compiled code as arguments.
    draw: `draw(rng_key, step, data, window) -> batch`. The key is consumed.
      Steps are -2 and -1, see `estimators.minibatch_noise`, then 0, 1, ...
  """

  data: PyTree
  draw: Draw


class Potential(NamedTuple):
  r"""One step's potential, :math:`U(u) = n\beta\,\ell(u) + \tau(u)`.

  In its parts, because some kernels scale themselves by the gradient of the
  loss alone.

  Attributes:
    loss: `loss(position) -> []`, :math:`\ell` on this step's minibatch.
    tether: `tether(position) -> []`, :math:`\tau`, what holds the chain; cheap.
    nbeta: [], :math:`n\beta`.
  """

  loss: Callable[[Position], Array]
  tether: Callable[[Position], Array]
  nbeta: Array | float


class SamplerInfo(NamedTuple):
  r"""What a step reports, all of it at the position *before* the step.

  Attributes:
    loss: [], minibatch loss.
    gradient: :math:`\nabla\hat U` of the minibatch, like the position.
    correction: [], c, such that in equilibrium
      :math:`E[(u - u^*) \cdot \nabla\hat U - c] = d`: the trace `virial`.
    recorded: {name: []}, more to be kept as traces; {} by most kernels. The
      mean of 'relative_bias' is the share of an estimate that the kernel adds.
    loss_correction: [], nats: c is linear in :math:`\nabla\hat U`, and this is
      c with :math:`\nabla\hat\ell` in its place. Half of :math:`n\beta` times
      its mean is the step's bias in an estimate, but for the share of minibatch
      noise that `noise_gain` takes off. NaN if that is not so.
    noise_gain: g, in weight^2, like the position or one number a leaf: noise of
      covariance C in the gradient of U adds tr gC / 4 to E[c]. NaN if that is
      not so.
  """

  loss: Array
  gradient: Position
  correction: Array | float
  recorded: Mapping[str, Array]
  loss_correction: Array | float = float('nan')
  noise_gain: Position | float = float('nan')


class Sampler(NamedTuple):
  """A Markov kernel. It sees one step's potential: no batch, no model.

  Attributes:
    name: with its settings; part of what makes a run's numbers what they are.
    init: `init(position) -> state`; a state has the field `position`.
    step: `step(rng_key, state, potential, step_size) -> (state, info)`; `info`
      is a `SamplerInfo`. The key is consumed.
    bias: a sentence on a known bias beyond that of SGLD's finite steps, said to
      whoever uses it for an estimate; '' if there is none.
    needs_full_data: whether the law is right only if all steps see one
      potential, so that minibatches are refused.
    is_exact_in_bowls: whether a bowl without minibatch noise is sampled
      exactly: its `loss_correction` is then noise alone, on average.
  """

  name: str
  init: Callable[[Position], Any]
  step: Callable[[Key, Any, Potential, Array], tuple[Any, SamplerInfo]]
  bias: str = ''
  needs_full_data: bool = False
  is_exact_in_bowls: bool = False


class Posterior(NamedTuple):
  r"""The localized tempered posterior, up to its loss and its center.

  Attributes:
    nbeta: :math:`n\beta`, samples times inverse temperature. Traced.
    localization: :math:`\gamma`, precision of the Gaussian around the
      checkpoint, in 1 / weight^2. Traced.
  """

  nbeta: Array | float
  localization: Array | float


class Trajectory(NamedTuple):
  """The checkpoints of a training run.

  Attributes:
    steps: training steps, ascending.
    load: `load(steps) -> params` with a leading axis, one entry a step.
    fingerprint: `fingerprint(step) -> hash` of weights that are finite, without
      loading them; `load` must refuse others. By default every checkpoint is
      loaded to be checked and hashed, by every process.
  """

  steps: Sequence[int]
  load: Callable[[Sequence[int]], Params]
  fingerprint: Callable[[int], str] | None = None
