"""Heads of a known circuit get the classes that they have."""

import jax
import numpy as np

from rllc_jax.analysis import head_scores
from rllc_jax.analysis import head_types
from tests.analysis import known_heads


def test_the_known_circuit():
  model, params = known_heads.circuit(vocab_size=40, context_length=64)
  scores, even = {}, {}
  for name in head_types.TYPES:
    scores[name] = head_scores.head_scores(
      name, model, params, jax.random.key(0), 512
    )
    even[name] = head_scores.even_attention(name, 64)
  memorized = np.array([[0, 0, 3], [9, 0, 1]])
  found = head_types.classify(scores, even, memorized)
  assert found.tolist() == [
    ['previous-token', 'current-token', 'multigram'],
    ['induction', 'other', 'multigram'],
  ]
  unknown = head_types.classify(scores, even)
  assert unknown[0, 2] == 'other'
  stricter = head_types.classify(scores, even, memorized, least=2)
  assert stricter[1, 2] == 'other'
  none = head_types.classify(scores, even, memorized, factor=1e3)
  assert none[1, 0] == 'multigram' and none[0, 0] == 'other'
