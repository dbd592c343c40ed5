"""Minibatches hold the sequences that their rule prescribes."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.refinement import weights
from rllc_jax.samplers import sgld
from tests.estimators import toy

ORDER = np.array([[4, 0], [5, 1], [2, 3]])


def sequences(count=6):
  """Two leaves whose entries identify their sequence."""
  numbers = np.arange(count)
  return {'x': np.stack([numbers, -numbers], axis=1), 'y': 10 * numbers}


def draws(batches, steps, window=None):
  window = minibatches.whole(batches.data) if window is None else window
  keys = jax.random.split(jax.random.key(0), len(steps))
  draw = lambda key, step: batches.draw(key, step, batches.data, window)
  return jax.jit(jax.vmap(draw))(keys, np.array(steps))


class UniformTest(absltest.TestCase):
  def test_draws_are_uniform_over_the_window(self):
    batches = minibatches.uniform(np.arange(9), 4)
    rows = draws(batches, range(5_000), types.Window(2, 5)).ravel()
    counts = np.bincount(rows, minlength=9)
    self.assertEqual(counts[[0, 1, 7, 8]].sum(), 0)
    # Binomial: 20,000 draws at 1/5 have a deviation of 57.
    np.testing.assert_allclose(counts[2:7], 4_000, atol=5 * 57)

  def test_a_minibatch_can_hold_a_sequence_twice(self):
    """Without replacement its sequences would depend on each other."""
    batches = minibatches.uniform(np.arange(4), 4)
    rows = np.sort(draws(batches, range(100)), axis=1)
    self.assertTrue((np.diff(rows, axis=1) == 0).any(axis=1).mean() > 0.8)

  def test_leaves_are_drawn_from_the_same_sequences(self):
    drawn = draws(minibatches.uniform(sequences(), 3), range(20))
    np.testing.assert_array_equal(10 * drawn['x'][..., 0], drawn['y'])

  def test_an_empty_minibatch_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'batch_size must be at least 1'):
      minibatches.uniform(np.arange(4), 0)


class OneWindowTest(parameterized.TestCase):
  """Minibatches that ignore the key."""

  def test_full_minibatches_are_all_of_the_data(self):
    drawn = draws(minibatches.full(sequences()), [0, 1, 7])
    for name, leaf in sequences().items():
      np.testing.assert_array_equal(drawn[name], np.stack([leaf] * 3))

  def test_epochs_replay_the_order(self):
    drawn = draws(minibatches.epochs(sequences(), ORDER), range(8))
    expected = ORDER[[0, 1, 2, 0, 1, 2, 0, 1]]
    np.testing.assert_array_equal(drawn['x'][..., 0], expected)
    np.testing.assert_array_equal(drawn['y'], 10 * expected)

  def test_orders_of_one_shape_share_a_program(self):
    a = minibatches.epochs(sequences(), ORDER)
    b = minibatches.epochs(sequences(), ORDER[::-1])
    self.assertIs(a.draw, b.draw)
    self.assertIs(
      minibatches.full(0 * ORDER).draw, minibatches.full(ORDER).draw
    )

  @parameterized.parameters(
    (types.Window(0, 6),), (types.Window(1, 1),), (types.Window(0, 3),)
  )
  def test_full_and_epochs_refuse_a_partial_window(self, window):
    every = np.arange(64).reshape(16, 4)
    for batches in (
      minibatches.full(toy.data()),
      minibatches.epochs(toy.data(), every),
    ):
      with self.assertRaisesRegex(ValueError, "window of data set 'text'"):
        toy.run(minibatches=batches, datasets={'text': window})

  def test_the_default_window_is_the_whole(self):
    """The estimate of a bowl over data whose mean is 2: loss* is their spread.

    At n beta 0 the chains sample the localization alone, whatever the data, but
    the loss is that of all data, at every draw.
    """
    data = np.array([0.0, 1.0, 5.0], np.float32)
    lens = weights.all_weights()
    loss_fn = lambda u, batch: jnp.mean((u - batch) ** 2)
    family = types.Refinements(
      ('all',), lens, jnp.zeros(1, jnp.int32), weights.refine(loss_fn, lens)
    )
    estimate = toy.estimate(
      jax.random.key(0),
      family,
      jnp.float32(2),
      minibatches.full(data),
      nbeta=0.0,
      localization=10.0,
      step_size=1e-2,
      num_draws=24,
      burn_in=0,
      estimator_nbeta=1.0,
    )
    np.testing.assert_allclose(
      estimate.traces['center_loss'], 14 / 3, rtol=1e-6
    )
    excess = estimate.traces['loss'] - estimate.traces['center_loss']
    distance = estimate.traces['squared_distance']
    np.testing.assert_allclose(excess, distance, atol=1e-5)

  def test_baseline_minibatches_follow_the_order_from_its_start(self):
    """As in devinterp, whose initial loss is over these."""
    rng = np.random.default_rng(1)
    order = rng.permutation(64).reshape(16, 4)
    store = toy.run(
      minibatches=minibatches.epochs(toy.data(), order),
      datasets={'text': types.Window(0, 1)},
      refinements=toy.family(0),
      trajectory=toy.trajectory((0,)),
      num_baseline_batches=20,
    )
    cell = store.isel(checkpoint=0, dataset=0, refinement=0)
    center_losses = cell.center_loss.isel(chain=0, draw=slice(20))
    np.testing.assert_allclose(cell.baseline_loss, center_losses, rtol=1e-6)
    np.testing.assert_array_equal(center_losses[:4], center_losses[16:20])
    self.assertLen(np.unique(center_losses), 16)

  @parameterized.parameters(
    (np.array([0, 1]), r'\[num_batches, B\].*shape \[2\]'),
    (np.zeros((0, 2), int), r'shape \[0, 2\]'),
    (np.array([[0.0, 1.0]]), 'whole numbers.*float64'),
    (np.array([[0, 6]]), 'within the 6 sequences.*0 to 6'),
    (np.array([[-1, 2]]), 'within the 6 sequences.*-1 to 2'),
  )
  def test_an_invalid_order_is_refused(self, order, message):
    with self.assertRaisesRegex(ValueError, message):
      minibatches.epochs(sequences(), order)

  @parameterized.parameters(minibatches.full, minibatches.whole)
  def test_leaves_of_different_length_are_refused(self, function):
    with self.assertRaisesRegex(ValueError, 'share a leading axis'):
      function({'x': np.zeros(3), 'y': np.zeros(4)})


class ReplayBiasTest(absltest.TestCase):
  def test_replayed_minibatches_record_too_high_a_loss(self):
    """Noise off, on data -1 and 1 in turn, loss (u - y)^2 / 2.

    Before it sees 1 the chain ends up at -a, and at a before -1: a step of
    r = step_size nbeta / 2 takes it from -a to -a + r (1 + a), which is a for
    a = r / (2 - r). The recorded loss is (1 + a)^2 / 2, that of all data there
    is (1 + a^2) / 2, so the lean a is what replaying adds.
    """
    data = np.array([-1.0, 1.0], np.float32)
    lens = weights.all_weights()
    loss_fn = lambda u, batch: jnp.mean((u - batch) ** 2) / 2
    family = types.Refinements(
      ('all',), lens, jnp.zeros(1, jnp.int32), weights.refine(loss_fn, lens)
    )
    nbeta, step_size = 40.0, 1e-2
    with self.assertWarnsRegex(UserWarning, 'noise_scale=0.0'):
      estimate = toy.estimate(
        jax.random.key(0),
        family,
        jnp.float32(0),
        minibatches.epochs(data, np.array([[0], [1]])),
        nbeta=nbeta,
        localization=0.0,
        step_size=step_size,
        sampler=sgld.sgld(noise_scale=0.0),
        num_chains=1,
        num_draws=50,
        burn_in=100,
      )
    r = step_size * nbeta / 2
    a = r / (2 - r)
    late = slice(100, None)
    # By then (1 - r)^100, 2e-10, remains of the start.
    np.testing.assert_allclose(
      estimate.traces['loss'][0, late], (1 + a) ** 2 / 2, rtol=1e-5
    )
    np.testing.assert_allclose(
      estimate.traces['squared_distance'][0, late], a**2, rtol=1e-5
    )
    np.testing.assert_allclose(estimate.llc, nbeta * (a + a**2 / 2), rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
