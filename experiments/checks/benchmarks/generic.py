"""Overhead of the engine: shared context, arbitrary losses and masks.

Eight chains of a head must cost less than eight times one, because they share
the context. An arbitrary loss of weights and minibatch, refined by a lens, must
take no longer than a loop written for it: `vmap` of `grad` over the chains,
`scan` over the steps. A mask must take no longer than a lens of the same
leaves.
"""

from collections.abc import Callable
from collections.abc import Iterator
import functools
import time

import jax
from jax import flatten_util
import jax.numpy as jnp

from experiments.checks.benchmarks import problem as problems
from experiments.runtime import targets
from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.estimators import grid
from rllc_jax.models import transformer
from rllc_jax.refinement import masks
from rllc_jax.refinement import weights

_NUM_CHAINS = 8
_NUM_STEPS = 24
_ROUNDS, _QUICK_ROUNDS = 3, 2
_ATTENTION = ('blocks_0', 'attn')


def rows(problem: problems.Problem, *, quick: bool) -> Iterator[targets.Row]:
  """Targets for ratios of minimal times on one device, measured in turn."""
  single, multiple = (
    shared_steps(problem, num_chains) for num_chains in (1, _NUM_CHAINS)
  )
  num_rounds = _QUICK_ROUNDS if quick else _ROUNDS
  ratio = ratio_of_minima(multiple, single, num_rounds)
  yield targets.Row(
    f'{_NUM_CHAINS} chains of a head over 1',
    ratio,
    'times as long',
    'at most 6',
    ratio <= 6,
    f'layer 1, 8 x 256, one device; {_NUM_CHAINS} if nothing were shared',
  )
  ratio = ratio_of_minima(*generic_and_plain(problem), num_rounds)
  yield targets.Row(
    'any loss, over vmap of grad',
    ratio,
    'times as long',
    'at most 1.1',
    ratio <= 1.1,
    f'the plain model, layer 0, {_NUM_CHAINS} chains, 2 x 256, one device',
  )
  for name, pair in masked_and_lens(problem).items():
    ratio = ratio_of_minima(*pair, num_rounds)
    yield targets.Row(
      f'a mask of {name}, over a lens',
      ratio,
      'times as long',
      'at most 1.15',
      ratio <= 1.15,
      f'the plain model, layer 0, {_NUM_CHAINS} chains, 2 x 256, one device',
    )


def ratio_of_minima(a: Callable, b: Callable, num_rounds: int) -> float:
  """Least time of one call over that of another, without compilation."""
  a(), b()  # Compiles.
  seconds = {a: [], b: []}
  for _ in range(num_rounds):
    # In turn, so that a disturbance of the machine meets both.
    for call in (a, b):
      began = time.perf_counter()
      call()
      seconds[call].append(time.perf_counter() - began)
  return min(seconds[a]) / min(seconds[b])


def shared_steps(problem: problems.Problem, num_chains: int) -> Callable:
  """A call that takes steps of some chains of a last-layer head."""
  return problems.runner(
    problem,
    ('1:0',),
    problems.batches(problem, 8, 256),
    num_chains=num_chains,
    num_steps=_NUM_STEPS,
    mesh=grid.make_mesh(1, 1),
  )


@functools.cache  # Compiled programs are cached by the identity of the loss.
def plain_loss() -> types.LossFn:
  """The loss of the model by its plain `apply`, without a shared context."""
  apply = functools.partial(transformer.apply, problems.MODEL)
  return losses.next_token_loss(apply)


def steps(
  problem: problems.Problem, lens: types.Lens, index: types.Index
) -> Callable:
  """A call that takes steps of chains of one refinement of the plain model."""
  data = problems.batches(problem, 2, 256)
  family = types.Refinements(
    ('moving',),
    lens,
    jax.tree.map(lambda leaf: leaf[None], index),
    weights.refine(plain_loss(), lens),
  )
  return problems.steps_of(
    problem,
    family,
    data,
    num_chains=_NUM_CHAINS,
    num_steps=_NUM_STEPS,
    mesh=grid.make_mesh(1, 1),
  )


def masked_and_lens(
  problem: problems.Problem,
) -> dict[str, tuple[Callable, Callable]]:
  """Calls with a mask and with a lens, for contiguous and scattered weights.

  One head is a slice of each of its leaves. The scattered weights are a random
  half of the attention's, compared with a lens of these leaves.
  """
  head, attention = weights.attention_head(0), weights.subtree(*_ATTENTION)
  whole_attention = weights.mask_of(attention, jnp.int32(0), problem.params)
  random = trees.normal_like(jax.random.key(0), problem.params)
  moving = {
    'one head': weights.mask_of(head, jnp.int32(0), problem.params),
    'scattered weights': jax.tree.map(
      lambda m, x: m & (x > 0), whole_attention, random
    ),
  }
  lenses = {'one head': head, 'scattered weights': attention}
  return {
    name: (
      steps(problem, *masks.mask_lens(mask, problem.params)),
      steps(problem, lenses[name], jnp.int32(0)),
    )
    for name, mask in moving.items()
  }


def generic_and_plain(problem: problems.Problem) -> tuple[Callable, Callable]:
  """Calls of the same chains by the engine and by a loop written for them."""
  loss_fn, lens = plain_loss(), weights.attention_head(0)
  params = jax.tree.map(jnp.asarray, problem.params)
  data = problems.batches(problem, 2, 256)
  window = types.Window(0, len(data.data))
  nbeta, gamma = problems.POSTERIOR
  step_size = problems.STEP_SIZE

  @jax.jit
  def plain(params, data_array, rng_key):
    center = lens.extract(params, 0)
    flat, unravel = flatten_util.ravel_pytree(center)

    def loss(u, batch):
      return loss_fn(lens.insert(unravel(u), params, 0), batch)

    def step(us, key):
      draw_key, noise_key = jax.random.split(key)
      batch = data.draw(draw_key, jnp.int32(0), data_array, window)
      value, gradient = jax.vmap(jax.value_and_grad(loss), (0, None))(us, batch)
      drift = nbeta * gradient + gamma * (us - flat[None])
      noise = jax.random.normal(noise_key, us.shape)
      return us - step_size / 2 * drift + step_size**0.5 * noise, value

    us = jnp.tile(flat[None], (_NUM_CHAINS, 1))
    return jax.lax.scan(step, us, jax.random.split(rng_key, _NUM_STEPS))[1]

  by_hand = lambda: plain(
    params, data.data, jax.random.key(2)
  ).block_until_ready()
  return steps(problem, lens, jnp.int32(0)), by_hand
