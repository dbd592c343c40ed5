"""Heads of a known circuit get the classes that they have."""

import jax
import numpy as np

from rllc_jax.analysis import head_scores
from rllc_jax.analysis import head_types
from tests.analysis import known_heads


def test_heads_of_the_known_circuit_get_their_classes():
  model, params = known_heads.circuit(vocab_size=20, context_length=32)
  scores, even = {}, {}
  for name in head_scores.SCORES:
    scores[name] = head_scores.head_scores(
      name, model, params, jax.random.key(0), 1_024
    )
    even[name] = head_scores.even_attention(name, 32)
  memorized = np.array([[0, 0, 3], [9, 0, 1]])
  classes = head_types.classify(scores, even, memorized)
  assert classes.tolist() == [
    ['previous-token', 'current-token', 'multigram'],
    ['induction', 'other', 'multigram'],
  ]
  unknown = head_types.classify(scores, even)
  assert unknown[0, 2] == 'other'
  stricter = head_types.classify(scores, even, memorized, least=2)
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
  classes = head_types.classify(scores, even, np.ones((2, 4)))
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
    scores, even, np.ones((1, 4)), serves_induction=np.array([serves])
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
