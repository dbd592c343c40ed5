"""Which sequences a step sees."""

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
  """Two leaves that say which sequence they are of."""
  numbers = np.arange(count)
  return {'x': np.stack([numbers, -numbers], axis=1), 'y': 10 * numbers}


def draws(batches, steps, window=None):
  window = minibatches.whole(batches.data) if window is None else window
  keys = jax.random.split(jax.random.key(0), len(steps))
  draw = lambda key, step: batches.draw(key, step, batches.data, window)
  return jax.jit(jax.vmap(draw))(keys, np.array(steps))


class UniformTest(absltest.TestCase):
  def test_every_sequence_of_the_window_equally_often_and_no_other(self):
    batches = minibatches.uniform(np.arange(9), 4)
    found = draws(batches, range(5_000), types.Window(2, 5)).ravel()
    counts = np.bincount(found, minlength=9)
    self.assertEqual(counts[[0, 1, 7, 8]].sum(), 0)
    # Binomial: 20,000 draws at 1/5 have a deviation of 57.
    np.testing.assert_allclose(counts[2:7], 4_000, atol=5 * 57)

  def test_a_sequence_may_come_twice(self):
    """Or else a minibatch would depend on the rest of it."""
    batches = minibatches.uniform(np.arange(4), 4)
    found = np.sort(draws(batches, range(100)), axis=1)
    self.assertTrue((np.diff(found, axis=1) == 0).any(axis=1).mean() > 0.8)

  def test_leaves_stay_together(self):
    found = draws(minibatches.uniform(sequences(), 3), range(20))
    np.testing.assert_array_equal(10 * found['x'][..., 0], found['y'])

  def test_an_empty_minibatch_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'batch_size must be at least 1'):
      minibatches.uniform(np.arange(4), 0)


class OneWindowTest(parameterized.TestCase):
  """Minibatches that ignore the key."""

  def test_full_is_all_of_the_data_at_every_step(self):
    found = draws(minibatches.full(sequences()), [0, 1, 7])
    for name, leaf in sequences().items():
      np.testing.assert_array_equal(found[name], np.stack([leaf] * 3))

  def test_epochs_replay_the_order(self):
    found = draws(minibatches.epochs(sequences(), ORDER), range(8))
    expected = ORDER[[0, 1, 2, 0, 1, 2, 0, 1]]
    np.testing.assert_array_equal(found['x'][..., 0], expected)
    np.testing.assert_array_equal(found['y'], 10 * expected)

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
  def test_a_window_that_is_not_the_whole_is_refused(self, window):
    every = np.arange(64).reshape(16, 4)
    for batches in (
      minibatches.full(toy.data()),
      minibatches.epochs(toy.data(), every),
    ):
      with self.assertRaisesRegex(ValueError, "window of data set 'text'"):
        toy.run(minibatches=batches, datasets={'text': window})

  def test_the_whole_is_the_window_by_default(self):
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
    found = toy.estimate(
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
    np.testing.assert_allclose(found.traces['center_loss'], 14 / 3, rtol=1e-6)
    excess = found.traces['loss'] - found.traces['center_loss']
    distance = found.traces['squared_distance']
    np.testing.assert_allclose(excess, distance, atol=1e-5)

  def test_baseline_minibatches_are_the_first_of_the_order(self):
    """As in devinterp, whose initial loss is over them."""
    rng = np.random.default_rng(1)
    order = rng.permutation(64).reshape(16, 4)
    found = toy.run(
      minibatches=minibatches.epochs(toy.data(), order),
      datasets={'text': types.Window(0, 1)},
      refinements=toy.family(0),
      trajectory=toy.trajectory((0,)),
      num_baseline_batches=20,
    )
    cell = found.isel(checkpoint=0, dataset=0, refinement=0)
    again = cell.center_loss.isel(chain=0, draw=slice(20))
    np.testing.assert_allclose(cell.baseline_loss, again, rtol=1e-6)
    np.testing.assert_array_equal(again[:4], again[16:20])
    self.assertLen(np.unique(again), 16)

  @parameterized.parameters(
    (np.array([0, 1]), r'\[num_batches, B\].*shape \[2\]'),
    (np.zeros((0, 2), int), r'shape \[0, 2\]'),
    (np.array([[0.0, 1.0]]), 'whole numbers.*float64'),
    (np.array([[0, 6]]), 'within the 6 sequences.*0 to 6'),
    (np.array([[-1, 2]]), 'within the 6 sequences.*-1 to 2'),
  )
  def test_an_order_that_is_none_is_refused(self, order, message):
    with self.assertRaisesRegex(ValueError, message):
      minibatches.epochs(sequences(), order)

  @parameterized.parameters(minibatches.full, minibatches.whole)
  def test_leaves_of_different_length_are_refused(self, function):
    with self.assertRaisesRegex(ValueError, 'share a leading axis'):
      function({'x': np.zeros(3), 'y': np.zeros(4)})


class ReplayBiasTest(absltest.TestCase):
  def test_a_replayed_minibatch_records_too_high_a_loss(self):
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
      found = toy.estimate(
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
    # By then (1 - r)^100, 2e-10, is left of the start.
    np.testing.assert_allclose(
      found.traces['loss'][0, late], (1 + a) ** 2 / 2, rtol=1e-5
    )
    np.testing.assert_allclose(
      found.traces['squared_distance'][0, late], a**2, rtol=1e-5
    )
    np.testing.assert_allclose(found.llc, nbeta * (a + a**2 / 2), rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
