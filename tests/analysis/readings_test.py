"""Readings of circuits built by hand agree with their construction."""

import collections
import pathlib
import re

import jax
import numpy as np
import pytest

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import affected_tokens
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import head_types
from rllc_jax.analysis import joint_cuts
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import readings
from rllc_jax.analysis import token_losses
from rllc_jax.models import architecture
from tests.analysis import known_heads
from tests.models import small


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


def test_scores_have_errors_and_the_known_head_is_previous_token_in_text():
  model, params = CIRCUIT
  read = readings.read_heads(
    jax.random.key(0),
    model,
    trajectory(params)._replace(steps=(10,)),
    text(),
    num_sequences=NUM_SEQUENCES,
  ).isel(checkpoint=0)
  names = [*head_scores.SCORES, 'previous_token_text', 'prefix_matching_text']
  names += [f'ablation_{kind}' for kind in ('zero', 'mean', 'resample')]
  for name in names:
    assert read[f'{name}_error'].dims == read[name].dims == ('layer', 'head')
  assert read.previous_token_text[0, 0] > 0.999
  assert read.previous_token_text_error[0, 0] < 1e-3
  rise, error = read.ablation_resample[1, 0], read.ablation_resample_error[1, 0]
  assert 0 < error < 0.5 * rise
  # Rises of losses, of rows: the mean of as many as there are.
  assert read.no_positions > 1 and 0 < read.no_positions_error < 1
  np.testing.assert_allclose(read.loss_error, _error_of_loss(model, params))


def _error_of_loss(model, params):
  losses = token_losses.token_losses(model, params, text().tokens)
  of_rows = np.asarray(losses, float).mean(axis=1)
  return of_rows.std(ddof=1) / np.sqrt(len(of_rows))


def test_without_a_positional_embedding_there_is_none_to_take_away():
  model = small.KINDS['llama']
  assert 'pos_embed' not in model.shapes()
  effects = readings._effects(
    jax.random.key(0), model, small.random_params(model), text(length=12)
  )
  assert np.isnan(effects.means['no_positions']).all()
  assert np.isfinite(effects.means['ablation_zero']).all()


@pytest.mark.parametrize('seed', range(2))
def test_heads_of_an_untrained_model_are_no_multigram_heads(seed):
  """On this repository's own code, in tokens that are words and marks."""
  folder = pathlib.Path(readings.__file__).parent
  source = '\n'.join(x.read_text() for x in sorted(folder.glob('*.py')))
  words = re.findall(r'\w+|[^\w\s]|\s+', source)
  common = [x for x, _ in collections.Counter(words).most_common(510)]
  ids = {word: i for i, word in enumerate(common)}
  spellings = [*common, '<rare>', '<eos>']
  tokens = np.array([ids.get(word, 510) for word in words])
  rows = tokens[: 64 * 127].reshape(64, 127)
  rows = np.concatenate([np.full((64, 1), 511), rows], axis=1)
  model = architecture.Architecture(
    num_heads=8, d_model=64, d_head=16, context_length=128, vocab_size=512
  )
  params = architecture.init_params(jax.random.key(seed), model)
  read = readings.read_heads(
    jax.random.key(0),
    model,
    types.Trajectory((0,), lambda steps: trees.stack([params])),
    readings.Text(rows, spellings, multigrams.pair_odds(rows)),
    num_sequences=64,
  )
  # There is enough to count: this alone made 16 of 16 heads of them.
  assert read.patterns.sum('pattern').min() == 500
  assert set(head_types.of_readings(read).values()) == {'other'}


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


def test_tables_are_of_the_end_and_of_a_sixth_of_training():
  model, params = CIRCUIT
  steps = 0, 90, 160, 250, 1_000
  load = lambda asked: trees.stack(
    [params if step in (160, 1_000) else {} for step in asked]
  )
  tables = affected_tokens.at_two_checkpoints(
    jax.random.key(0), model, types.Trajectory(steps, load), text()
  )
  assert tables.table_checkpoint.values.tolist() == [160, 1_000]
  assert tables.affected_effect.dims[0] == 'table_checkpoint'
  last = tables.affected_text.isel(table_checkpoint=1)
  assert (last == tables.affected_text.isel(table_checkpoint=0)).all()
  one = affected_tokens.at_two_checkpoints(
    jax.random.key(0), model, types.Trajectory((160,), load), text()
  )
  assert one.table_checkpoint.values.tolist() == [160]


def test_cutting_the_known_circuit_hurts_what_it_predicts():
  """Nested closings that a repetition tells: induction alone predicts them."""
  model, params = CIRCUIT
  rows = text().tokens
  rows = np.where((rows > 6) & (rows < 11), 0, rows)
  closed = np.array([7, 9, 10, 8])  # ( [ ] )
  rows[1, 1:5] = rows[1, 12:16] = closed
  words = readings.Text(rows, SPELLINGS, {})
  assert (words.depths() > 1).sum() == 2
  cut = lambda writers, about: joint_cuts.read_joint_cuts(
    model, trajectory(params), about, np.array(writers)
  )
  cuts = cut([True, False, False], words)
  assert cuts.joint_nested.dims == ('checkpoint', 'minibatch')
  last, first = cuts.sel(checkpoint=10), cuts.sel(checkpoint=0)
  assert last.joint_nested > 1 and last.joint_other > 1
  for name in ('joint_nested_control', 'joint_other_control'):
    np.testing.assert_allclose(last[name], 0, atol=0.01)
  # Weights that are all 0 lose nothing.
  np.testing.assert_allclose(first.joint_nested, 0, atol=1e-6)
  # The cut and its control change places.
  other = cut([False, True, True], words)
  np.testing.assert_allclose(other.joint_nested_control, cuts.joint_nested)
  none = cut([False] * 3, words)
  assert np.isnan(none.joint_nested).all() and np.isnan(none.joint_other).all()
  assert np.isfinite(none.joint_other_control).all()
  flat = cut([True, False, False], readings.Text(rows[2:], SPELLINGS, {}))
  assert np.isnan(flat.joint_nested).all()
  assert np.isfinite(flat.joint_other).all()
