"""Four kernels agree with blackjax: ours at eps, its own at eta = eps / 2.

SGLD and MALA agree step by step, key by key. Its SGHMC and SGNHT move the
position by the old momentum, so what agrees step by step is the update of
momentum and thermostat from our states.
"""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.samplers import mala
from rllc_jax.samplers import sghmc
from rllc_jax.samplers import sgld
from rllc_jax.samplers import sgnht
from tests.samplers import chain

blackjax = pytest.importorskip('blackjax')
diffusions = pytest.importorskip('blackjax.sgmcmc.diffusions')

STEPS, EPS, NBETA = 100, 0.02, 30.0
H = np.float32(np.sqrt(EPS / 2))
CENTER = {'a': jnp.ones(3), 'b': jnp.full(2, 0.5)}


def loss(u):
  return jnp.sum(jnp.log(jnp.cosh(u['a']))) + jnp.sum(u['b'] ** 4)


def tether(u):
  return 2.0 * (u['a'] @ u['a'] + u['b'] @ u['b'])


def log_density(u):
  return -NBETA * loss(u) - tether(u)


def our_chains(sampler):
  potential = types.Potential(loss, tether, NBETA)
  run = lambda key: chain.run(
    sampler,
    lambda _: potential,
    CENTER,
    jnp.float32(EPS),
    key,
    jnp.arange(STEPS),
  )
  return jax.jit(run)(jax.random.key(0))


def assert_close(actual, expected):
  """float32, and a chain that forgets its rounding as it forgets its start."""
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


class BlackjaxTest(parameterized.TestCase):
  def test_sgld_agrees_step_by_step(self):
    blackjax_kernel = blackjax.sgld(lambda u, batch: jax.grad(log_density)(u))

    def step(position, index):
      key = jax.random.fold_in(jax.random.key(0), index)
      return blackjax_kernel.step(key, position, None, EPS / 2), position

    expected = jax.jit(
      lambda: jax.lax.scan(
        step, blackjax_kernel.init(CENTER), jnp.arange(STEPS)
      )[1]
    )()
    assert_close(our_chains(sgld.sgld())[0].position, expected)

  def test_mala_agrees_step_by_step(self):
    blackjax_kernel = blackjax.mala(log_density, EPS / 2)

    def step(state, index):
      key = jax.random.fold_in(jax.random.key(0), index)
      new, info = blackjax_kernel.step(key, state)
      return new, (state.position, info.acceptance_rate)

    expected = jax.jit(
      lambda: jax.lax.scan(
        step, blackjax_kernel.init(CENTER), jnp.arange(STEPS)
      )[1]
    )()
    states, infos = our_chains(mala.mala())
    assert_close((states.position, infos.recorded['acceptance']), expected)
    moved = np.diff(states.position['a'][:, 0]) != 0
    self.assertBetween(moved.mean(), 0.1, 0.95)  # Both ways were taken.

  @parameterized.parameters('sghmc', 'sgnht')
  def test_updates_of_momentum_and_thermostat_agree(self, name):
    """p = v / h, friction per unit of time: alpha / h."""
    if name == 'sghmc':
      states, _ = our_chains(sghmc.sghmc(0.2))
      update = diffusions.sghmc(0.2 / H)
      blackjax_update = lambda key, state, slope: update(
        key, state.position, momentum(state), slope, H
      )
      expected = lambda state: (state.position, momentum(state))
    else:
      states, _ = our_chains(sgnht.sgnht(0.7))
      update = diffusions.sgnht(0.7)
      friction = lambda state: 0.7 + state.thermostat / H
      blackjax_update = lambda key, state, slope: update(
        key, state.position, momentum(state), friction(state), slope, H
      )
      expected = lambda state: (
        state.position,
        momentum(state),
        friction(state),
      )

    def step(key, state):
      slope = jax.grad(log_density)(state.position)
      _, *new_state = blackjax_update(key, state, slope)
      # Our kernel moves by the new momentum, blackjax does so one step later.
      position = jax.tree.map(
        lambda u, p: u + H * p, state.position, new_state[0]
      )
      return position, *new_state

    momentum = lambda state: jax.tree.map(lambda v: v / H, state.velocity)
    before = jax.tree.map(lambda leaf: leaf[:-1], states)
    after = jax.tree.map(lambda leaf: leaf[1:], states)
    keys = chain.step_keys(jax.random.key(0), STEPS)[:-1]
    new = jax.jit(jax.vmap(step))(keys, before)
    assert_close(new, jax.vmap(expected)(after))


if __name__ == '__main__':
  absltest.main()
