"""Attention scores on heads whose mechanism is known."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from rllc_jax.analysis import head_scores
from rllc_jax.models import attention_only
from tests.analysis import known_heads
from tests.models import attention_only_test

PAPER = attention_only.AttentionOnly()


def questions_of(score, model):
  """Many questions, in NumPy."""
  ask = jax.jit(score, static_argnums=(1, 2))
  return jax.tree.map(np.asarray, ask(jax.random.key(0), model, 5_000))


class QuestionsTest(parameterized.TestCase):
  def test_lengths_are_16_to_64_and_the_last_position_asks(self):
    score = head_scores.previous_token_questions
    tokens, _, queries, keys = questions_of(score, PAPER)
    np.testing.assert_array_equal(np.unique(queries), np.arange(15, 64))
    np.testing.assert_array_equal(keys, queries - 1)
    np.testing.assert_array_equal(tokens[:, 0], 4999)
    self.assertLess(tokens[:, 1:].max(), 4999)
    self.assertEqual(tokens[:, 1:].min(), 0)

  def test_exactly_one_token_is_repeated(self):
    score = head_scores.prefix_matching_questions
    model = PAPER.clone(vocab_size=50)
    tokens, _, queries, keys = questions_of(score, model)
    rows = np.arange(len(tokens))
    repeated = tokens[rows, queries]
    np.testing.assert_array_equal(tokens[rows, keys - 1], repeated)
    np.testing.assert_array_equal((tokens == repeated[:, None]).sum(axis=1), 2)
    np.testing.assert_array_equal(np.unique(keys), np.arange(2, 65))
    np.testing.assert_array_equal(np.unique(queries), np.arange(65, 128))
    np.testing.assert_array_equal(tokens[:, 0], 49)
    # Every other token comes, and all about equally often.
    counts = np.bincount(np.asarray(tokens[:, 1:]).ravel(), minlength=50)
    self.assertEqual(counts[49], 0)
    expected = tokens[:, 1:].size / 49
    self.assertLess(abs(counts[:49] / expected - 1).max(), 0.05)


class AttentionTest(absltest.TestCase):
  def test_attention_is_the_entry_of_the_pattern(self):
    """Every head, against the plain pattern of the whole sequence."""
    model = attention_only.AttentionOnly(
      num_layers=2,
      num_heads=3,
      d_model=16,
      d_head=4,
      context_length=20,
      vocab_size=30,
    )
    params = attention_only_test.random_params(model)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 29, (7, 20))
    queries = rng.integers(1, 20, 7)
    keys = queries - rng.integers(0, 2, 7)
    # Several about one sequence, and none about others.
    rows = np.array([4, 0, 0, 2, 6, 6, 1])

    @jax.jit
    def patterns():
      residual = params['embed']['W_E'][tokens]
      positions = params['pos_embed']['W_pos'][: tokens.shape[1]]
      pattern_list = []
      for i in range(2):
        block = params[f'blocks_{i}']
        x = attention_only.layer_norm(block['ln1'], residual)
        for head in range(3):
          weights = {n: w[head] for n, w in block['attn'].items() if n != 'b_O'}
          pattern_list.append(
            attention_only.attention_pattern(weights, x + positions[None])
          )
        residual += attention_only.attend(block['attn'], x, positions)
      return pattern_list

    attention_to = jax.jit(head_scores.attention_to, static_argnums=0)
    questions = head_scores.Questions(tokens, rows, queries, keys)
    weights_to_keys = attention_to(model, params, questions)
    for number, pattern in enumerate(patterns()):
      np.testing.assert_allclose(
        weights_to_keys[divmod(number, 3)],
        np.asarray(pattern)[rows, queries, keys],
        rtol=1e-4,
      )


class KnownHeadsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('previous_token', (0, 0)),
    ('current_token', (0, 1)),
    ('prefix_matching', (1, 0)),
  )
  def test_the_known_head_scores_1_and_idle_heads_score_even_attention(
    self, score, place
  ):
    model, params = known_heads.circuit(vocab_size=20, context_length=32)
    scores = np.array(
      head_scores.head_scores(score, model, params, jax.random.key(0), 1_024)
    )
    self.assertGreater(scores[place], 0.999)
    even = head_scores.even_attention(score, 32)
    idle = scores[(0, 1, 1), (2, 1, 2)]
    # 1,024 lengths of 16 to 32: a standard error of 0.7 %.
    np.testing.assert_allclose(idle, even, rtol=0.03)
    scores[place] = 0
    self.assertLess(scores.max(), 0.1)

  def test_even_attention_at_the_paper_s_size(self):
    """As given for its code: 0.0291 and 0.01070."""
    self.assertAlmostEqual(
      head_scores.even_attention('previous_token'), 0.0291, places=4
    )
    self.assertAlmostEqual(
      head_scores.even_attention('prefix_matching'), 0.01070, places=5
    )

  def test_scores_map_over_checkpoints(self):
    model, params = known_heads.circuit()
    idle = jax.tree.map(np.zeros_like, params)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), params, idle)
    score = lambda params: head_scores.head_scores(
      'previous_token', model, params, jax.random.key(0), 64
    )
    scores = np.asarray(jax.lax.map(score, stacked))
    self.assertGreater(scores[0, 0, 0], 0.999)
    # Heads whose weights are 0 attend evenly, as head 0:2 of the circuit does.
    np.testing.assert_allclose(scores[1], scores[0, 0, 2], rtol=1e-6)

  def test_a_context_too_short_is_refused(self):
    model, params = known_heads.circuit(context_length=7)
    with self.assertRaisesRegex(ValueError, 'at least 8 tokens.*got 7'):
      head_scores.head_scores('current_token', model, params, jax.random.key(0))


if __name__ == '__main__':
  absltest.main()
