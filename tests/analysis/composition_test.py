"""Composition scores against the formula, and on a known circuit."""

from absl.testing import absltest
import jax
import numpy as np

from rllc_jax.analysis import composition
from rllc_jax.models import transformer
from tests.analysis import known_heads
from tests.models import small


def by_the_formula(params, earlier, later):
  """With matrices written out, [d_model, d_model]."""
  writes, reads = (params[f'blocks_{i}']['attn'] for i in (earlier, later))
  norm = np.linalg.norm
  H = len(writes['W_Q'])
  scores = {kind: np.zeros((H, H)) for kind in 'KQV'}
  for a in range(H):
    for b in range(H):
      ov = np.array(writes['W_V'][a] @ writes['W_O'][a], float)
      qk = np.array(reads['W_Q'][b] @ reads['W_K'][b].T, float)
      later_values = np.array(reads['W_V'][b] @ reads['W_O'][b], float)
      scores['K'][a, b] = norm(ov @ qk.T) / (norm(ov) * norm(qk))
      scores['Q'][a, b] = norm(ov @ qk) / (norm(ov) * norm(qk))
      scores['V'][a, b] = norm(ov @ later_values) / (
        norm(ov) * norm(later_values)
      )
  return scores


class CompositionTest(absltest.TestCase):
  def test_scores_equal_the_formula(self):
    model = transformer.Architecture(
      num_layers=3,
      num_heads=2,
      d_model=16,
      d_head=4,
      context_length=8,
      vocab_size=9,
    )
    params = small.random_params(model)
    for layers in ((0, 1), (0, 2), (1, 2)):
      with jax.default_matmul_precision('highest'):
        scores = composition.composition(params, *layers)
      expected = by_the_formula(params, *layers)
      for kind in composition.KINDS:
        np.testing.assert_allclose(scores[kind], expected[kind], rtol=1e-4)

  def test_independent_random_heads_have_a_known_score(self):
    """1 / sqrt(d_model) = 0.0625 at the paper's size; 64 pairs a kind."""
    model = transformer.Architecture()
    params = small.random_params(model)
    scores = composition.composition(params, 0, 1)
    for kind in composition.KINDS:
      np.testing.assert_allclose(scores[kind], 1 / 16, rtol=0.15)
      np.testing.assert_allclose(scores[kind].mean(), 1 / 16, rtol=0.01)

  def test_induction_reads_the_previous_token_by_its_keys(self):
    """The known circuit: one score of the K kind, and nothing else."""
    _, params = known_heads.circuit()
    scores = composition.composition(params, 0, 1)
    self.assertAlmostEqual(scores['K'][0, 0], 1 / np.sqrt(12), places=5)
    for kind in 'QV':
      self.assertEqual(scores[kind][0, 0], 0)

  def test_a_head_whose_weights_are_zero_composes_with_none(self):
    """Its score is 0 and no NaN; those of other pairs are as they were."""
    model = transformer.Architecture(num_heads=2, d_model=16, d_head=4)
    params = small.random_params(model)
    attention = params['blocks_0']['attn']
    silent = {**attention, 'W_V': attention['W_V'].at[0].set(0)}
    block = {**params['blocks_0'], 'attn': silent}
    scores = composition.composition({**params, 'blocks_0': block}, 0, 1)
    full = composition.composition(params, 0, 1)
    for kind in composition.KINDS:
      np.testing.assert_array_equal(scores[kind][0], 0)
      np.testing.assert_allclose(scores[kind][1], full[kind][1], rtol=1e-6)

  def test_layers_in_the_wrong_order_are_refused(self):
    _, params = known_heads.circuit()
    for layers in ((1, 0), (0, 0), (0, 2)):
      with self.assertRaisesRegex(ValueError, 'earlier < later < 2'):
        composition.composition(params, *layers)


if __name__ == '__main__':
  absltest.main()
