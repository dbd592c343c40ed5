"""Traces against matrices that are known."""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import complexity
from rllc_jax.data import minibatches
from rllc_jax.models import transformer
from rllc_jax.refinement import weights
from tests.models import small

CURVATURES = np.array([[1.0, 2.0, 4.0], [0.5, 0.5, 8.0]])
DATA = np.random.default_rng(0).normal(size=(500, 3))


def loss_fn(params, batch):
  """A bowl in each row of w, shifted by the data: Hessian diag(CURVATURES)."""
  away = params['w'][None] - batch[:, None]
  return jnp.mean(jnp.sum(0.5 * CURVATURES[None] * away**2, axis=(1, 2)))


def rows():
  """A refinement a row of w."""
  lens = types.Lens(
    extract=lambda params, i: params['w'][i],
    insert=lambda u, params, i: {'w': params['w'].at[i].set(u)},
  )
  loss = weights.refine(loss_fn, lens)
  return types.Refinements(('0', '1'), lens, jnp.arange(2), loss)


def measured(**options):
  params = {'w': np.array([[3.0, 4, 0], [0, 0, 1]])}
  batches = minibatches.uniform(DATA, 10)
  window = types.Window(100, 300)
  return params, complexity.complexity(
    jax.random.key(0), [rows()], loss_fn, params, batches, window, **options
  )


class ComplexityTest(absltest.TestCase):
  def test_the_hessian_s_trace_is_exact_where_it_is_diagonal(self):
    """z^T diag(h) z = sum h for any signs."""
    _, measures = measured()
    np.testing.assert_allclose(measures.hessian_trace, [7, 9], rtol=1e-5)
    np.testing.assert_allclose(measures.hessian_error, 0, atol=1e-5)

  def test_the_fisher_trace_is_the_mean_square_of_a_sequence_s_gradient(self):
    params, measures = measured(num_batches=400)
    away = params['w'][:, None] - DATA[None, 100:400]
    squares = np.sum((CURVATURES[:, None] * away) ** 2, axis=2)
    expected = squares.mean(axis=1)
    far = np.abs(measures.fisher_trace - expected) / measures.fisher_error
    self.assertLess(far.max(), 4)
    # Not that of a minibatch's mean, which is smaller.
    self.assertLess(measures.fisher_error.max() / expected.min(), 0.1)

  def test_the_token_trace_is_the_mean_over_single_tokens(self):
    """A loop over the tokens of a corpus, each with its own gradient."""
    model = small.KINDS['shortformer']
    params = small.random_params(model)
    tokens = np.random.default_rng(0).integers(0, 50, (6, 12))
    apply = functools.partial(transformer.apply, model)
    loss = losses.next_token_loss(apply)
    families = weights.families(['0:0', '0:3', '1:2'], params, loss)
    measures = complexity.complexity(
      jax.random.key(0),
      families,
      loss,
      params,
      minibatches.uniform(tokens, 3),
      types.Window(0, 6),
      num_batches=600,
    )

    @jax.jit
    def gradient_of_token(row, place):
      """Of one prediction alone, of each head."""
      one = jnp.zeros((1, 12)).at[0, place].set(11.0)
      batch = types.WeightedTokens(row[None], one)
      gradient = jax.grad(loss)(params, batch)
      parts = [
        family.lens.extract(gradient, i)
        for family in families
        for i in family.indices
      ]
      return jnp.stack([trees.dot(u, u) for u in parts])

    squares = [
      gradient_of_token(row, place) for row in tokens for place in range(1, 12)
    ]
    expected = np.mean(squares, axis=0)
    away = np.abs(measures.fisher_token_trace - expected)
    self.assertLess((away / measures.fisher_token_error).max(), 4)
    self.assertLess((measures.fisher_token_error / expected).max(), 0.05)

  def test_data_that_are_no_tokens_have_no_token_trace(self):
    _, measures = measured()
    self.assertTrue(np.isnan(measures.fisher_token_trace).all())

  def test_minibatches_are_drawn_until_errors_are_small_or_all_are_used(self):
    """Groups of 10: as many as one program of all of them would use."""
    whole = lambda count: measured(num_batches=count)[1]
    adaptive = lambda **options: measured(num_batches=10, **options)[1]
    for count, options in (
      (10, {}),
      (10, {'max_batches': 400, 'target': 1.0}),
      (400, {'max_batches': 400, 'target': 1e-3}),
      (30, {'max_batches': 21, 'target': 1e-3}),
    ):
      one, expected = adaptive(**options), whole(count)
      for name in ('fisher_trace', 'fisher_error', 'hessian_trace'):
        np.testing.assert_allclose(
          getattr(one, name), getattr(expected, name), rtol=1e-5
        )
    reached = adaptive(max_batches=10_000, target=0.05)
    ratio = (reached.fisher_error / reached.fisher_trace).max()
    self.assertBetween(ratio, 0.03, 0.05)

  def test_the_norm_is_that_of_the_row(self):
    _, measures = measured()
    np.testing.assert_allclose(measures.weight_norm, [5, 1], rtol=1e-6)

  def test_signs_average_out_off_diagonal_entries(self):
    """A dense Hessian: the trace within 4 errors, which shrink."""
    matrix = np.random.default_rng(1).normal(size=(6, 6))
    matrix = matrix @ matrix.T

    def dense(params, batch):
      return 0.5 * params @ jnp.asarray(matrix) @ params + 0 * jnp.sum(batch)

    lens = weights.all_weights()
    family = types.Refinements(
      ('all',), lens, jnp.zeros(1), weights.refine(dense, lens)
    )
    errors = []
    for num_batches in (25, 400):
      measures = complexity.complexity(
        jax.random.key(0),
        [family],
        dense,
        np.ones(6),
        minibatches.uniform(np.zeros(4), 2),
        types.Window(0, 4),
        num_batches=num_batches,
      )
      away = abs(measures.hessian_trace[0] - np.trace(matrix))
      self.assertLess(away, 4 * measures.hessian_error[0])
      errors.append(measures.hessian_error[0])
    self.assertAlmostEqual(errors[0] / errors[1], 4, delta=1.5)

  def test_cross_terms_between_heads_average_out(self):
    """Two halves of a dense Hessian: each its own block's trace."""
    matrix = np.random.default_rng(1).normal(size=(6, 6))
    matrix = matrix @ matrix.T
    lens = types.Lens(
      extract=lambda params, i: params[i],
      insert=lambda u, params, i: params.at[i].set(u),
    )
    flat = lambda params: params.reshape(-1)

    def dense(params, batch):
      return 0.5 * flat(params) @ matrix @ flat(params) + 0 * jnp.sum(batch)

    family = types.Refinements(
      ('0', '1'), lens, jnp.arange(2), weights.refine(dense, lens)
    )
    measures = complexity.complexity(
      jax.random.key(0),
      [family],
      dense,
      np.ones((2, 3)),
      minibatches.uniform(np.zeros(4), 2),
      types.Window(0, 4),
      num_batches=400,
    )
    expected = [np.trace(matrix[:3, :3]), np.trace(matrix[3:, 3:])]
    away = np.abs(measures.hessian_trace - expected) / measures.hessian_error
    self.assertLess(away.max(), 4)
    self.assertLess((measures.hessian_error / expected).max(), 0.1)

  def test_families_may_share_coordinates(self):
    """A row, and all of w: each has its own trace, in the order given."""
    lens = weights.all_weights()
    full = types.Refinements(
      ('all',), lens, jnp.zeros(1), weights.refine(loss_fn, lens)
    )
    params = {'w': np.array([[3.0, 4, 0], [0, 0, 1]])}
    joint, apart = (
      complexity.complexity(
        jax.random.key(0),
        families,
        loss_fn,
        params,
        minibatches.uniform(DATA, 10),
        types.Window(100, 300),
        num_batches=400,
      )
      for families in ([full, rows()], [rows()])
    )
    # What they share adds noise, so that it is a mean now.
    away = np.abs(joint.hessian_trace - [16, 7, 9])
    self.assertLess((away / joint.hessian_error).max(), 4)
    np.testing.assert_allclose(joint.fisher_trace[1:], apart.fisher_trace, 1e-5)
    expected = apart.fisher_trace.sum()
    np.testing.assert_allclose(joint.fisher_trace[0], expected, rtol=1e-5)

  def test_one_minibatch_has_no_error(self):
    with self.assertRaisesRegex(ValueError, 'at least 2.*got 1'):
      measured(num_batches=1)


if __name__ == '__main__':
  absltest.main()
