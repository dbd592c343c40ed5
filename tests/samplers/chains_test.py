"""Columns that move, and columns that stay as they are."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.samplers import chains

WEIGHTS = jnp.array([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5])


def move(i, state):
  return state + WEIGHTS[i], {'before': state, 'column': i}


def advanced(live, size):
  states = jnp.arange(6.0)
  function = jax.jit(
    lambda states, live: chains.advance_chunks(move, states, live, size)
  )
  return function(states, jnp.array(live, bool))


class AdvanceTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 6)
  def test_all_columns_move_and_report_in_their_places(self, size):
    states, reports = advanced([True] * 6, size)
    np.testing.assert_array_equal(states, np.arange(6) + np.asarray(WEIGHTS))
    np.testing.assert_array_equal(reports['before'], np.arange(6))
    np.testing.assert_array_equal(reports['column'], np.arange(6))

  def test_columns_that_are_not_live_stay_as_they_are(self):
    live = np.array([0, 1, 0, 0, 1, 1], bool)
    states, reports = advanced(live, 1)
    expected = np.arange(6) + np.where(live, np.asarray(WEIGHTS), 0)
    np.testing.assert_array_equal(states, expected)
    np.testing.assert_array_equal(reports['column'], [0, 1, 0, 0, 4, 5])

  @parameterized.parameters((2, 4), (3, 3), (6, 6))
  def test_live_columns_fill_as_few_chunks_as_hold_them(self, size, moved):
    live = np.array([0, 1, 0, 0, 1, 1], bool)
    states, reports = advanced(live, size)
    has_moved = np.asarray(states) != np.arange(6)
    self.assertTrue(has_moved[live].all())
    self.assertEqual(has_moved.sum(), moved)
    np.testing.assert_array_equal(
      np.asarray(reports['column'])[live], np.flatnonzero(live)
    )

  def test_a_chunk_that_does_not_divide_the_columns_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'chunk_size must divide .* 6.*4'):
      advanced([True] * 6, 4)


if __name__ == '__main__':
  absltest.main()
