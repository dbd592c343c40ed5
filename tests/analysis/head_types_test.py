"""Heads of a known circuit get the classes that they have."""

import jax
import numpy as np
import pytest
import xarray as xr

from rllc_jax.analysis import head_scores
from rllc_jax.analysis import head_types
from tests.analysis import known_heads


def test_heads_of_the_known_circuit_get_their_classes():
  model, params = known_heads.circuit(vocab_size=20, context_length=32)
  scores, even = {}, {}
  for name in head_scores.SCORES:
    scores[name] = head_scores.head_scores(
      name, model, params, jax.random.key(0), 1_024
    ).mean
    even[name] = head_scores.even_attention(name, 32)
  memorized = np.array([[0, 0, 5], [9, 0, 4]])
  classes = head_types.classify(scores, even, memorized)
  assert classes.tolist() == [
    ['previous-token', 'current-token', 'multigram'],
    ['induction', 'other', 'multigram'],
  ]
  unknown = head_types.classify(scores, even)
  assert unknown[0, 2] == 'other'
  stricter = head_types.classify(scores, even, memorized, least=5)
  assert stricter[1, 2] == 'other'
  none = head_types.classify(scores, even, memorized, factor=1e3)
  assert none[1, 0] == 'multigram' and none[0, 0] == 'other'


def test_a_score_shared_by_a_whole_layer_is_no_class():
  """A head counts as current-token only if it stands out of its layer."""
  even = {'current_token': 0.03, 'previous_token': 0.03}
  scores = {
    'current_token': np.array([[0.3, 0.25, 0.2, 0.2], [0.6, 0.1, 0.2, 0.2]]),
    'previous_token': np.array([[0.05, 0.04, 0.3, 0.05], [0.05] * 4]),
  }
  classes = head_types.classify(scores, even, np.full((2, 4), 9))
  assert classes.tolist() == [
    ['multigram', 'multigram', 'previous-token', 'multigram'],
    ['current-token', 'multigram', 'multigram', 'multigram'],
  ]


def test_matching_in_text_is_compared_with_neighboring_positions():
  even = {
    'prefix_matching': 0.01,
    'prefix_matching_text': np.array([[0.1, 0.1, 0.2, 0.1]]),
  }
  scores = {
    'prefix_matching': np.array([[0.001, 0.05, 0.001, 0.001]]),
    'prefix_matching_text': np.array([[0.7, np.nan, 0.3, 0.25]]),
  }
  classify = lambda serves: head_types.classify(
    scores, even, np.full((1, 4), 9), serves_induction=np.array([serves])
  )
  classes = classify([True, True, True, False])
  assert classes.tolist() == [
    ['induction', 'induction', 'multigram', 'multigram']
  ]
  # Among random tokens attention is enough.
  classes = classify([False, False, False, True])
  assert classes.tolist() == [
    ['multigram', 'induction', 'multigram', 'induction']
  ]


def test_a_multigram_head_has_memorized_more_than_its_null():
  """By three standard deviations of a count: 3 + 3 sqrt(3), or 3 of under 1."""
  scores = {'previous_token': np.zeros((1, 6))}
  counts = np.array([[8, 9, 3, 4, 10, 10]])
  null = np.array([[3, 3, 0, 0.25, 3.4, 4]])
  classes = head_types.classify(scores, {'previous_token': 0.1}, counts, null)
  other, multigram = head_types.OTHER, head_types.MULTIGRAM
  assert classes.tolist() == [
    [other, multigram, other, multigram, multigram, other]
  ]
  unknown = head_types.classify(
    scores, {'previous_token': 0.1}, counts, np.nan * null
  )
  assert (unknown == other).all()


def readings(**variables):
  """Readings of one layer whose two heads attend to nothing in particular."""
  heads = 'checkpoint', 'layer', 'head'
  names = [*head_types.TYPES, 'prefix_matching_text_beside']
  data = {name: (heads, np.full((1, 1, 2), 0.1)) for name in names}
  data |= {name: (heads, [[value]]) for name, value in variables.items()}
  data['even'] = 'score', np.full(3, 0.1)
  data['patterns'] = (*heads, 'pattern'), np.zeros((1, 1, 2, 1))
  labels = {'checkpoint': [7], 'score': list(head_scores.SCORES)}
  return xr.Dataset(data, labels | {'pattern': ['other']})


def test_true_words_decide_where_they_are_known():
  counted = readings(
    num_ngrams=[20, 5], num_skip_ngrams=[1, 4], null_multigrams=[12.0, 1.0]
  )
  assert head_types.of_readings(counted) == {'0:0': 'other', '0:1': 'multigram'}
  heads = 'layer', 'head'
  true = counted.assign(
    true_words=(heads, [[3, 0]]), true_pairs=(heads, [[1, 3]])
  )
  assert head_types.of_readings(true) == {'0:0': 'multigram', '0:1': 'other'}


def test_readings_without_a_null_are_refused():
  without = readings(num_ngrams=[20, 5], num_skip_ngrams=[1, 4])
  with pytest.raises(ValueError, match='must have null_multigrams.*again'):
    head_types.of_readings(without)
