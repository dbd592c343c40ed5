"""Work that is missing: nothing lost, nothing twice."""

from absl.testing import absltest
import numpy as np

from rllc_jax.estimators import missing


class PiecesTest(absltest.TestCase):
  def test_every_missing_draw_is_planned_once(self):
    """For random states of a store."""
    rng = np.random.default_rng(0)
    for _ in range(50):
      shape = rng.integers(1, 7, size=2)
      recorded = rng.choice([0, 3, 9], size=shape)
      planned = recorded.copy()
      per_block = int(rng.integers(1, 4))
      for piece in missing.pieces(recorded, 9, per_block):
        self.assertLessEqual(len(piece.rows), per_block)
        cells = np.ix_(piece.rows, piece.columns)
        np.testing.assert_array_equal(planned[cells], piece.first)
        planned[cells] = 9
      np.testing.assert_array_equal(planned, 9)

  def test_what_is_done_is_not_planned(self):
    self.assertEqual(missing.pieces(np.full((3, 2), 9), 9, 2), [])


if __name__ == '__main__':
  absltest.main()
