"""Readings of circuits built by hand agree with their construction."""

import jax
import numpy as np
import pytest

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import affected_tokens
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import readings
from tests.analysis import known_heads


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """Uses one device, because everything compiles once per device."""
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])


# The same as in head_scores_test, which JAX finds compiled.
CIRCUIT = known_heads.circuit(vocab_size=20, context_length=32)
NUM_SEQUENCES = 1_024
SPELLINGS = [*'abcdefg', '(', ')', '[', ']', '<eos>']


def text(num_rows=8, length=24, seed=0):
  """Rows whose second half repeats the first; the special token begins each."""
  rng = np.random.default_rng(seed)
  half = length // 2
  first = np.stack([rng.permutation(11)[: half - 1] for _ in range(num_rows)])
  rows = np.concatenate([first, first], axis=1)
  special = np.full((num_rows, 1), 11)
  return readings.Text(np.concatenate([special, rows], axis=1), SPELLINGS, {})


def trajectory(params):
  stacked = trees.stack([jax.tree.map(np.zeros_like, params), params])
  load = lambda steps: jax.tree.map(
    lambda leaf: leaf[[(0, 10).index(step) for step in steps]], stacked
  )
  return types.Trajectory((0, 10), load)


def test_the_induction_head_serves_induction_and_no_other_does():
  model, params = CIRCUIT
  trained, zero = (
    readings.read_heads(
      jax.random.key(0),
      model,
      trajectory(params)._replace(steps=(step,)),
      text(),
      num_sequences=NUM_SEQUENCES,
    )
    for step in (10, 0)
  )
  last = trained.sel(checkpoint=10)
  score = last.prefix_matching_text
  assert score[1, 0] > 0.99 and last.prefix_matching_text_beside[1, 0] < 0.1
  ratio = score / last.prefix_matching_text_beside
  assert (ratio.values.ravel()[[1, 2, 4, 5]] < 1.5).all()
  patterns = last.patterns.transpose('layer', 'head', 'pattern')
  assert patterns[1, 0].idxmax() == 'induction'
  # Both heads of the circuit are needed, and nothing else is.
  assert last.ablation_resample[1, 0] > 1 and last.ablation_resample[0, 0] > 1
  np.testing.assert_allclose(last.ablation_resample[1, 1:], 0, atol=1e-4)
  # Weights that are all 0 serve nothing.
  np.testing.assert_allclose(zero.ablation_zero, 0)


def test_nested_brackets_are_found_by_minibatch():
  rows = text().tokens
  rows = np.where((rows > 6) & (rows < 11), 0, rows)
  rows[1, 1:5] = [7, 9, 10, 8]  # ( [ ] )
  nested = readings._nested(rows, SPELLINGS)
  assert nested.sum() == 1 and nested[1, 2]
  model, params = CIRCUIT
  result = readings.read_heads(
    jax.random.key(0),
    model,
    trajectory(params)._replace(steps=(10,)),
    readings.Text(rows, SPELLINGS, {}),
    num_sequences=NUM_SEQUENCES,
  )
  assert result.path_nested.sizes['minibatch'] == 1
  assert np.isfinite(result.path_nested).all()


def test_questions_are_about_repeated_pairs_but_common_ones():
  rows = np.array([[9, 1, 2, 3, 1, 2, 4, 2, 3], [9, 1, 1, 1, 5, 6, 7, 8, 8]])
  tokens, which, queries, keys = head_scores.repeated_pairs(rows, {}, 10)
  assert (
    queries.tolist() == [4, 7]
    and keys.tolist() == [2, 6]
    or (queries.tolist() == [4] and keys.tolist() == [2])
  )
  np.testing.assert_array_equal(tokens, rows)
  assert which[0] == 0
  none = head_scores.repeated_pairs(rows, {(1, 2): 0.06}, 10)
  assert (1, 2) not in [
    (rows[i, q], rows[i, q + 1])
    for i, q in zip(none.rows, none.queries, strict=True)
  ]


def test_the_most_attended_place_is_that_of_the_whole_pattern():
  model, params = CIRCUIT
  noise = np.random.default_rng(0).normal
  params = jax.tree.map(lambda x: x + 0.1 * noise(size=x.shape), params)
  params = jax.tree.map(np.float32, params)
  tokens = text(3).tokens.astype(np.int32)
  places = head_scores.most_attended(model, params, tokens)
  for place in (0, 5, tokens.shape[1] - 1):
    rows = head_scores.attention_rows(
      model, params, tokens, np.arange(len(tokens)), np.full(len(tokens), place)
    )
    np.testing.assert_array_equal(places[..., place], rows.argmax(axis=-1))


def test_affected_tokens_are_the_worst_and_shown_with_attention():
  model, params = CIRCUIT
  examples = affected_tokens.affected_tokens(
    jax.random.key(0), model, params, text(), count=3, context=6
  )
  head = examples.isel(layer=1, head=0)
  assert (np.diff(head.affected_effect) <= 0).all()
  assert (head.affected_effect > 1).all()
  # The token before the last attends to what it follows, at a distance of 11.
  assert (head.affected_attention <= 1 + 1e-6).all()
  idle = examples.isel(layer=1, head=1)
  assert not (idle.affected_effect > 1e-3).any()
