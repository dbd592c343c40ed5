"""Toy losses are those for which exact values are computed."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from rllc_jax.truth import toy

COUPLED = toy.Polynomial((1.0, 1.0, 1.0), ((2, 0), (1, 2), (0, 4)))


def layers(*widths, seed=0):
  draw = np.random.default_rng(seed).normal
  return [
    draw(size=(rows, columns))
    for columns, rows in zip(widths, widths[1:], strict=False)
  ]


class ToyTest(parameterized.TestCase):
  @parameterized.parameters(
    toy.quadratic_toy([1.0, 3.0]),
    toy.polynomial_toy(COUPLED),
    toy.polynomial_toy(toy.normal_crossing((1, 2)), (0.0, 2.0)),
    toy.linear_network_toy(layers(3, 2, 4)),
    toy.linear_network_toy(layers(12, 9, 10, 11)),
  )
  def test_a_true_parameter_has_no_loss_and_no_gradient(self, *parts):
    loss, params, data = parts
    value, gradient = jax.jit(jax.value_and_grad(loss))(params, data)
    # 1e-9: of a squared distance between float32 products of order 1.
    self.assertLess(abs(float(value)), 1e-9)
    for leaf in jax.tree.leaves(gradient):
      np.testing.assert_allclose(leaf, 0, atol=1e-4)

  def test_the_hessian_of_a_bowl_has_its_curvatures(self):
    bowl = toy.quadratic_toy([1.0, 3.0])
    hessian = jax.jit(jax.hessian(bowl.loss))(bowl.params, bowl.data)
    np.testing.assert_array_equal(hessian, np.diag([1.0, 3.0]))

  def test_derivatives_agree_with_autodiff(self):
    w = jnp.array([0.7, -1.3])
    loss = toy.polynomial_toy(COUPLED).loss
    slopes = [toy.derivative(COUPLED, i) for i in range(2)]
    np.testing.assert_allclose(
      [toy.evaluate(slope, w) for slope in slopes],
      jax.jit(jax.grad(loss))(w, None),
      rtol=1e-6,
    )
    twice = [[toy.derivative(slope, i) for i in range(2)] for slope in slopes]
    np.testing.assert_allclose(
      [[toy.evaluate(each, w) for each in row] for row in twice],
      jax.jit(jax.hessian(loss))(w, None),
      rtol=1e-6,
    )

  def test_a_derivative_may_vanish(self):
    linear = toy.Polynomial((2.0,), ((1, 2),))
    nothing = toy.derivative(toy.derivative(linear, 0), 0)
    self.assertEqual(toy.evaluate(nothing, (1.0, 1.0)), 0)

  def test_freezing_is_inserting_a_value(self):
    free = toy.freeze(COUPLED, (None, 2.0))
    for x in (-0.5, 1.5):
      # 16 is y^4, which moves no chain.
      self.assertAlmostEqual(
        toy.evaluate(free, (x,)) + 16, toy.evaluate(COUPLED, (x, 2.0))
      )
    self.assertEqual(
      toy.freeze(COUPLED, (0.0, None)), toy.Polynomial((1.0,), ((4,),))
    )

  def test_tiny_networks_agree_with_plain_products(self):
    """Tiny products are summed elementwise, with equal value and gradient."""
    small = layers(3, 2, 4)
    params = {f'layer_{i}': jnp.asarray(w) for i, w in enumerate(small)}
    params = jax.tree.map(lambda w: w.astype(jnp.float32), params)
    target = jnp.ones((1, 4, 3))

    def plain(params, batch):
      product = params['layer_1'] @ params['layer_0']
      return 0.5 * jnp.sum((product - batch[0]) ** 2)

    actual = jax.jit(jax.value_and_grad(toy.linear_network_loss))(
      params, target
    )
    expected = jax.jit(jax.value_and_grad(plain))(params, target)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), actual, expected
    )

  def test_layers_are_applied_in_order(self):
    first, second = layers(2, 3, 4)
    network = toy.linear_network_toy([first, second])
    np.testing.assert_allclose(network.data[0], second @ first, rtol=1e-5)

  @parameterized.parameters((3, 2, 4), (10, 12, 9))
  def test_curvatures_are_the_eigenvalues_of_the_hessian(self, *widths):
    network = toy.linear_network_toy(layers(*widths))
    flat, unravel = ravel_pytree(network.params)
    hessian = jax.jit(
      jax.hessian(lambda w: network.loss(unravel(w), network.data))
    )
    every = np.linalg.eigvalsh(np.asarray(hessian(flat), np.float64))
    curvatures = toy.squared_norm_curvatures(
      lambda u: toy.linear_network_residual(u, network.data), network.params
    )
    self.assertLen(curvatures, widths[0] * widths[-1])
    # Relative to the largest: the Hessian is in float32.
    scale = curvatures[-1]
    both = min(len(curvatures), len(every))
    np.testing.assert_allclose(
      curvatures[-both:] / scale, every[-both:] / scale, atol=1e-5
    )
    np.testing.assert_allclose(every[:-both] / scale, 0, atol=1e-5)

  def test_one_free_layer_has_the_curvatures_of_the_frozen_one(self):
    """K(A) = |B (A - A*)|^2 / 2: B^T B, once for every input."""
    inputs, (first, second) = 3, layers(3, 2, 4)
    network = toy.linear_network_toy([first, second])
    frozen = network.params['layer_1']
    curvatures = toy.squared_norm_curvatures(
      lambda u: toy.linear_network_residual(
        {'layer_0': u, 'layer_1': frozen}, network.data
      ),
      network.params['layer_0'],
    )
    expected = np.repeat(np.linalg.eigvalsh(second.T @ second), inputs)
    # The rest, outputs that B does not reach, are flat.
    np.testing.assert_allclose(curvatures[:-6], 0, atol=1e-5)
    np.testing.assert_allclose(curvatures[-6:], expected, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
