"""Every kernel against a NumPy loop in float64, fed the same noise.

The loops are written from the papers' equations: explicit matrices, explicit
densities, velocities and friction per unit of time where the paper has them so.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
from scipy import stats

from rllc_jax import types
from rllc_jax.samplers import mala
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import rmsprop_sgld
from rllc_jax.samplers import sghmc
from rllc_jax.samplers import sgld
from rllc_jax.samplers import sgnht
from tests.samplers import chain

# l(u) = mean log cosh(x.u - y) over a fresh minibatch [m]; u = {'a': [3],
# 'b': [2]} and u* = 0.
STEPS, BATCH, D = 60, 4, 5
NBETA, GAMMA, EPS = 20.0, 10.0, 0.02


def potential_at(batch):
  def loss(u):
    u = jnp.concatenate([u['a'], u['b']])
    return jnp.mean(jnp.log(jnp.cosh(batch['x'] @ u - batch['y'])))

  tether = lambda u: GAMMA / 2 * (u['a'] @ u['a'] + u['b'] @ u['b'])
  return types.Potential(loss, tether, NBETA)


class Potential:
  """The same in NumPy, differentiated by hand."""

  def __init__(self, batch):
    self.x, self.y = (np.asarray(batch[name], np.float64) for name in 'xy')

  def loss(self, u):
    return np.mean(np.log(np.cosh(self.x @ u - self.y)))

  def loss_gradient(self, u):
    return self.x.T @ np.tanh(self.x @ u - self.y) / BATCH

  def value(self, u):
    return NBETA * self.loss(u) + GAMMA / 2 * u @ u

  def gradient(self, u):
    return NBETA * self.loss_gradient(u) + GAMMA * u


# --- Preconditioners: generators of G, sent the gradient of the loss. --------
def rms(decay, eps, start, corrected):
  V, G, t = np.full(D, start), None, 0
  while True:
    g = yield G
    t += 1
    V = decay * V + (1 - decay) * g**2
    G = 1 / (np.sqrt(V / (1 - decay**t) if corrected else V) + eps)


def norms():
  """A user's own: one number a leaf, of the largest gradient so far."""
  largest, G = np.zeros(2), None
  while True:
    g = yield G
    largest = np.maximum(largest, [np.abs(g[:3]).max(), np.abs(g[3:]).max()])
    G = np.repeat(1 / (0.5 + largest), [3, 2])


def _largest(memory, gradient):
  memory = jax.tree.map(
    lambda m, g: jnp.maximum(m, jnp.max(jnp.abs(g))), memory, gradient
  )
  return memory, jax.tree.map(lambda m: 1 / (0.5 + m), memory)


NORMS = preconditioners.Preconditioner(
  'norms',
  lambda position: jax.tree.map(lambda leaf: jnp.zeros([]), position),
  _largest,
)


# --- Kernels: generators of u. -----------------------------------------------
def sgld_loop(G_of, potentials, noises, uniforms):
  u = np.zeros(D)
  for U, xi in zip(potentials, noises, strict=True):
    yield u
    G = np.diag(G_of.send(U.loss_gradient(u)))
    u = u - EPS / 2 * G @ U.gradient(u) + np.sqrt(EPS * G) @ xi


def sghmc_loop(G_of, potentials, noises, uniforms, friction=0.3):
  u, v = np.zeros(D), np.zeros(D)
  for U, xi in zip(potentials, noises, strict=True):
    yield u
    root = np.sqrt(G_of.send(U.loss_gradient(u)))
    v = (1 - friction) * v - EPS / 2 * root * U.gradient(u)
    v = v + np.sqrt(2 * friction * EPS / 2) * xi
    u = u + root * v


def sgnht_loop(G_of, potentials, noises, uniforms, A=0.7):
  """In the paper's momenta p, friction zeta and step h."""
  h = np.sqrt(EPS / 2)
  u, p, zeta = np.zeros(D), np.zeros(D), A
  for U, xi in zip(potentials, noises, strict=True):
    yield u
    root = np.sqrt(G_of.send(U.loss_gradient(u)))
    p = p - zeta * p * h - root * U.gradient(u) * h + np.sqrt(2 * A * h) * xi
    u = u + root * p * h
    zeta = zeta + (p @ p / D - 1) * h


def mala_loop(G_of, potentials, noises, uniforms):
  u = np.zeros(D)
  for U, xi, uniform in zip(potentials, noises, uniforms, strict=True):
    yield u
    G = np.diag(G_of.send(U.loss_gradient(u)))
    mean = lambda u, U=U, G=G: u - EPS / 2 * G @ U.gradient(u)
    log_q = lambda to, at, G=G, mean=mean: stats.multivariate_normal.logpdf(
      to, mean(at), EPS * G
    )
    new = mean(u) + np.sqrt(EPS * G) @ xi
    log_ratio = U.value(u) - U.value(new) + log_q(u, new) - log_q(new, u)
    if np.log(uniform) < log_ratio:
      u = new


KERNELS = {
  'sgld_user': (sgld.sgld(preconditioner=NORMS), sgld_loop, norms),
  'sghmc_user': (sghmc.sghmc(0.3, NORMS), sghmc_loop, norms),
  'sgnht_user': (sgnht.sgnht(0.7, NORMS), sgnht_loop, norms),
  'mala_user': (mala.mala(NORMS), mala_loop, norms),
  'rmsprop_sgld': (
    rmsprop_sgld.rmsprop_sgld(),
    sgld_loop,
    lambda: rms(0.99, 0.1, 0.0, corrected=False),
  ),
  'rmsprop_sgld_corrected': (
    rmsprop_sgld.rmsprop_sgld_corrected(),
    sgld_loop,
    lambda: rms(0.999, 1e-8, 1.0, corrected=True),
  ),
}


@functools.cache
def random_numbers(with_test):
  """Random numbers of 3 chains: normals [3, STEPS, D], uniforms for MALA."""

  def draw(rng_key):
    if not with_test:
      return jax.random.normal(rng_key, (D,)), jnp.nan
    proposal_key, test_key = jax.random.split(rng_key)
    return jax.random.normal(proposal_key, (D,)), jax.random.uniform(test_key)

  def draws(rng_key):
    return jax.vmap(draw)(chain.step_keys(rng_key, STEPS))

  return jax.device_get(jax.jit(jax.vmap(draws))(chain_keys()))


def chain_keys():
  return jax.random.split(jax.random.key(0), 3)


class LoopTest(parameterized.TestCase):
  @parameterized.named_parameters((f'_{name}', name) for name in KERNELS)
  def test_a_chain_equals_the_loop_of_its_paper(self, name):
    """Three chains at once, each the loop of its own noise and minibatches.

    So a chain is also the same whatever runs beside it, and run again.
    """
    sampler, loop, G_of = KERNELS[name]
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    batches = {'x': draw(3, STEPS, BATCH, D), 'y': draw(3, STEPS, BATCH)}
    center = {'a': jnp.zeros(3), 'b': jnp.zeros(2)}
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])

    @jax.jit
    @jax.vmap
    def run(rng_key, batches):
      states, infos = chain.run(
        sampler, potential_at, center, jnp.float32(EPS), rng_key, batches
      )
      return flat(states.position), infos.loss, flat(infos.gradient)

    positions, losses, slopes = jax.device_get(run(chain_keys(), batches))
    random = random_numbers(loop is mala_loop)
    for c in range(3):
      potentials = [
        Potential({name: leaf[c, step] for name, leaf in batches.items()})
        for step in range(STEPS)
      ]
      G = G_of()
      next(G)
      numbers = [leaf[c].astype(np.float64) for leaf in random]
      expected = list(loop(G, potentials, *numbers))
      # Rounding in float32: a chain forgets it as it forgets its start.
      np.testing.assert_allclose(positions[c], expected, rtol=1e-4, atol=1e-5)
      places = list(zip(potentials, expected, strict=True))
      values, gradients = zip(
        *[(U.loss(u), U.gradient(u)) for U, u in places], strict=True
      )
      np.testing.assert_allclose(losses[c], values, rtol=1e-4, atol=1e-6)
      np.testing.assert_allclose(slopes[c], gradients, rtol=1e-3, atol=1e-3)
      refused = (np.diff(expected, axis=0) == 0).all(axis=1).sum()
      self.assertEqual(refused > 0, loop is mala_loop)


if __name__ == '__main__':
  absltest.main()
