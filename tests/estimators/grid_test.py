"""How work is cut up: nothing lost, nothing twice."""

from absl.testing import absltest
from absl.testing import parameterized
import jax

from rllc_jax.estimators import footprint
from rllc_jax.estimators import grid


class FakeDevice:
  """A device with so much memory."""

  def __init__(self, platform, limit):
    self.platform, self._limit = platform, limit

  def memory_stats(self):
    return {'bytes_limit': self._limit} if self._limit else None


class ChunkTest(parameterized.TestCase):
  @parameterized.parameters(
    ('cpu', 0, 32, 1),  # One chain fills the cores.
    ('gpu', 0, 32, 1),  # A device that does not say what it has.
    ('gpu', 1000, 32, 5),  # 750 bytes to use: 200 shared, 5 of 100.
    ('gpu', 64_000, 32, 32),
    ('gpu', 10, 32, 1),  # Not even one fits: try.
    ('tpu', 2300, 32, 11),  # 15 fit, but 3 equal chunks of 11 pad less.
  )
  def test_as_many_as_fit_in_equal_chunks(self, platform, limit, columns, size):
    device = FakeDevice(platform, limit)
    measure = lambda: footprint.Footprint(shared=200, column=100)
    result = grid.default_chunk_size(columns, measure, device)
    self.assertEqual(result, size)

  def test_what_fits_is_known_only_with_a_limit(self):
    measure = lambda: footprint.Footprint(shared=200, column=100)
    fit = lambda limit: grid.fitting_chunk_size(
      9, measure, FakeDevice('cpu', limit)
    )
    self.assertEqual(fit(1000), 5)
    self.assertIsNone(fit(0))


class BufferTest(absltest.TestCase):
  def test_there_is_room_and_not_much_more(self):
    for num_draws in (*range(1, 300), 1023, 1024, 1025):
      length = grid.buffer_length(num_draws)
      self.assertGreaterEqual(length, num_draws)
      self.assertLess(length, max(257, 2 * num_draws))


class MeshTest(absltest.TestCase):
  def test_rows_are_dealt_first(self):
    self.assertEqual(dict(grid.default_mesh(5).shape), {'row': 2, 'column': 1})
    self.assertEqual(dict(grid.default_mesh(1).shape), {'row': 1, 'column': 2})

  def test_too_few_devices_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'needs 6 devices.*got 2'):
      grid.make_mesh(3, 2, jax.devices())


if __name__ == '__main__':
  absltest.main()
