"""Attention scores on heads whose mechanism is known."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.analysis import head_scores
from rllc_jax.models import transformer
from tests.analysis import known_heads
from tests.models import small

PAPER = transformer.Architecture()


def questions_of(score, vocab_size):
  """Many questions, in NumPy."""
  vocabulary = head_scores.own_vocabulary(vocab_size)
  ask = jax.jit(score, static_argnums=(2, 3))
  asked = ask(jax.random.key(0), vocabulary, PAPER.context_length, 5_000)
  return jax.tree.map(np.asarray, asked)


class QuestionsTest(parameterized.TestCase):
  def test_lengths_are_16_to_64_and_the_last_position_asks(self):
    score = head_scores.previous_token_questions
    tokens, _, queries, keys = questions_of(score, PAPER.vocab_size)
    np.testing.assert_array_equal(np.unique(queries), np.arange(15, 64))
    np.testing.assert_array_equal(keys, queries - 1)
    np.testing.assert_array_equal(tokens[:, 0], 4999)
    self.assertLess(tokens[:, 1:].max(), 4999)
    self.assertEqual(tokens[:, 1:].min(), 0)

  def test_exactly_one_token_is_repeated(self):
    score = head_scores.prefix_matching_questions
    tokens, _, queries, keys = questions_of(score, 50)
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

  @parameterized.parameters(*head_scores.SCORES)
  def test_tokens_are_those_of_the_vocabulary(self, score):
    """A model from elsewhere has its special token anywhere, and ids unused."""
    vocabulary = head_scores.Vocabulary(3, np.array([0, 2, 5, 6, 9]))
    ask = head_scores.SCORES[score]
    tokens = np.asarray(ask(jax.random.key(0), vocabulary, 16, 64).tokens)
    np.testing.assert_array_equal(tokens[:, 0], 3)
    self.assertEqual({*tokens[:, 1:].ravel().tolist()}, {0, 2, 5, 6, 9})

  def test_scores_use_the_vocabulary(self):
    """By default the last id is special; any other makes other scores."""
    model = small.KINDS['gpt2']
    params = small.random_params(model)
    score = lambda vocabulary: (
      head_scores.head_scores(
        'prefix_matching', model, params, jax.random.key(0), 64, vocabulary
      ).mean
    )
    own = score(head_scores.own_vocabulary(model.vocab_size))
    np.testing.assert_array_equal(own, score(None))
    other = score(head_scores.Vocabulary(0, np.arange(1, model.vocab_size)))
    self.assertGreater(abs(np.asarray(other - own)).max(), 1e-4)


class AttentionTest(parameterized.TestCase):
  @parameterized.parameters(*small.KINDS)
  def test_weights_are_rows_of_the_plain_patterns(self, kind):
    """In every layer and head, for any order of questions."""
    model = small.KINDS[kind]
    params = small.random_params(model)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 49, (7, 12))
    queries = rng.integers(1, 12, 7)
    keys = queries - rng.integers(0, 2, 7)
    # Several about one sequence, and none about others.
    rows = np.array([4, 0, 0, 2, 6, 6, 1])
    patterns = plain_patterns(model, params, tokens)  # [L, H, N, T, T]
    questions = head_scores.Questions(tokens, rows, queries, keys)
    attention_to = jax.jit(head_scores.attention_to, static_argnums=0)
    np.testing.assert_allclose(
      attention_to(model, params, questions),
      patterns[:, :, rows, queries, keys],
      rtol=1e-4,
      atol=1e-7,
    )
    np.testing.assert_array_equal(
      head_scores.most_attended(model, params, tokens), patterns.argmax(axis=-1)
    )


@functools.partial(jax.jit, static_argnums=0)
def plain_patterns(model, params, tokens):
  """All attention patterns of the plain model, [L, H, N, T, T]."""
  residual = transformer.embedded(model, params, tokens)
  patterns = []
  for layer in range(model.num_layers):
    block = params[f'blocks_{layer}']
    x = transformer.norm(model, block['ln1'], residual)
    read = transformer.positioned(model, params, x)
    for head in range(model.num_heads):
      q, k = (
        transformer.linear(
          read,
          block['attn'][f'W_{name}'][row],
          block['attn'].get(f'b_{name}', np.zeros((model.num_heads, 1)))[row],
        )
        for name, row in (('Q', head), ('K', head // model.group_size))
      )
      patterns.append(
        transformer.attention_pattern(model, layer, block['attn'], q, k)
      )
    residual = transformer.after_layer(model, params, layer, residual)
  heads = jnp.stack(patterns)
  return heads.reshape(model.num_layers, -1, *heads.shape[1:])


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
      head_scores.head_scores(
        score, model, params, jax.random.key(0), 1_024
      ).mean
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
    score = lambda params: (
      head_scores.head_scores(
        'previous_token', model, params, jax.random.key(0), 64
      ).mean
    )
    scores = np.asarray(jax.lax.map(score, stacked))
    self.assertGreater(scores[0, 0, 0], 0.999)
    # Heads whose weights are 0 attend evenly, as head 0:2 of the circuit does.
    np.testing.assert_allclose(scores[1], scores[0, 0, 2], rtol=1e-6)

  def test_errors_are_those_of_independent_questions(self):
    """Of 20 scores of 1,024 questions, for heads that attend unevenly."""
    model = small.KINDS['gpt2']
    params = small.random_params(model)
    keys = jax.random.split(jax.random.key(0), 20)
    scores = jax.lax.map(
      lambda key: head_scores.head_scores(
        'previous_token', model, params, key, 1_024
      ),
      keys,
    )
    deviation = np.asarray(scores.mean).std(axis=0, ddof=1)
    ratio = deviation / np.asarray(scores.error).mean(axis=0)
    self.assertGreater(ratio.min(), 0.6)
    self.assertLess(ratio.max(), 1.5)

  def test_the_previous_token_head_scores_1_in_text(self):
    model, params = known_heads.circuit(vocab_size=20, context_length=32)
    text = np.random.default_rng(0).integers(0, 19, (40, 32))
    questions = head_scores.previous_places(text, 200)
    np.testing.assert_array_equal(questions.keys, questions.queries - 1)
    np.testing.assert_array_equal(np.unique(questions.queries), range(16, 32))
    self.assertLen(np.unique(questions.rows), 40)
    score = head_scores.score_in_text(model, params, questions)
    self.assertGreater(score.mean[0, 0], 0.999)
    self.assertLess(score.error[0, 0], 1e-3)
    even = np.mean(1 / (1 + np.asarray(questions.queries)))
    np.testing.assert_allclose(score.mean[1, 1], even, rtol=1e-5)
    self.assertLess(score.mean[0, 1], 1e-3)

  def test_places_of_short_rows_begin_in_their_middle(self):
    questions = head_scores.previous_places(np.zeros((3, 10), int), 100)
    self.assertLen(questions.rows, 15)
    self.assertEqual(questions.queries.min(), 5)

  def test_a_context_too_short_is_refused(self):
    model, params = known_heads.circuit(context_length=7)
    with self.assertRaisesRegex(ValueError, 'at least 8 tokens.*got 7'):
      head_scores.head_scores('current_token', model, params, jax.random.key(0))


if __name__ == '__main__':
  absltest.main()
