"""SGHMC against linear algebra: no random number is drawn here."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from rllc_jax import types
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import sghmc


def stationary_covariance(a, eps, friction, C):
  """Covariance of (u, v) in a bowl, by the discrete Lyapunov equation.

  C is the variance that minibatches add to the gradient of U.
  """
  velocity = [-eps / 2 * a, 1 - friction]
  A = np.array([[1 + velocity[0], velocity[1]], velocity])
  noise = friction * eps + (eps / 2) ** 2 * C
  return linalg.solve_discrete_lyapunov(A, noise * np.ones((2, 2)))


class BowlTest(parameterized.TestCase):
  @parameterized.product(
    friction=(0.05, 0.5, 1.0), eps_a=(0.01, 1.0, 3.5), C=(0.0, 400.0)
  )
  def test_the_closed_form_solves_the_lyapunov_equation(
    self, friction, eps_a, C
  ):
    a, eps = 50.0, eps_a / 50
    variance = stationary_covariance(a, eps, friction, C)[0, 0]
    expected = (1 + eps * C / (4 * friction)) / (
      a * (1 - eps_a / (4 * (2 - friction)))
    )
    np.testing.assert_allclose(variance, expected, rtol=1e-9)

  @parameterized.parameters(0.05, 0.5, 1.0)
  def test_chains_are_stable_up_to_the_stated_step(self, friction):
    for share, stable in ((0.999, True), (1.001, False)):
      b = share * 2 * (2 - friction)  # eps a / 2.
      A = np.array([[1 - b, 1 - friction], [-b, 1 - friction]])
      self.assertEqual(np.abs(np.linalg.eigvals(A)).max() < 1, stable)

  @parameterized.product(
    friction=(0.05, 0.5, 1.0), eps_a=(0.01, 1.0), C=(0.0, 400.0), G=(1.0, 0.3)
  )
  def test_the_equilibrium_ratio_is_exactly_1(self, friction, eps_a, C, G):
    """The kernel's own quadratic form in (u, v), summed over the covariance.

    Its value at (1, 0), (0, 1) and (1, 1) gives all of it. A minibatch adds its
    own noise f to the gradient, whose form is the value at u = 0, f = 1.
    """
    a, eps = 50.0, eps_a / 50
    kernel = sghmc.sghmc(
      friction, preconditioners.fixed(f'{G}', lambda u: jnp.full_like(u, G))
    )

    def virial(u, v, f):
      potential = types.Potential(
        lambda u: a / 2 * u @ u + f * u.sum(), lambda u: 0.0 * u.sum(), 1.0
      )
      state = kernel.init(jnp.array([u]))._replace(velocity=jnp.array([v]))
      key = jax.random.key(0)
      _, info = kernel.step(key, state, potential, jnp.float32(eps))
      return float(u * info.gradient[0] - info.correction)

    uu, vv = virial(1.0, 0.0, 0.0), virial(0.0, 1.0, 0.0)
    uv = virial(1.0, 1.0, 0.0) - uu - vv
    # In coordinates u / sqrt(G) the curvature is G a and the noise G C.
    S = stationary_covariance(G * a, eps, friction, G * C)
    expected = uu * G * S[0, 0] + uv * np.sqrt(G) * S[0, 1] + vv * S[1, 1]
    expected += C * virial(0.0, 0.0, 1.0)
    self.assertAlmostEqual(expected, 1.0, places=4)  # float32 coefficients.


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(0.0, -0.1, 1.5, float('nan'))
  def test_friction_outside_0_to_1_is_refused(self, friction):
    with self.assertRaisesRegex(ValueError, f'at most 1.*got {friction}'):
      sghmc.sghmc(friction)

  def test_settings_are_in_the_name(self):
    self.assertEqual(sghmc.sghmc(0.25).name, 'sghmc(friction=0.25)')
    self.assertEqual(
      sghmc.sghmc(0.25, preconditioners.rmsprop()).name,
      'sghmc(rmsprop(decay=0.99, eps=0.1), friction=0.25)',
    )


if __name__ == '__main__':
  absltest.main()
