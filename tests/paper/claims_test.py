"""Statistics are positive where a claim is planted, negative if reversed."""

import functools
import math

import numpy as np
import pytest
import xarray as xr

from experiments.paper import claim_runs
from experiments.paper import claim_statistics
from experiments.paper import claims
from experiments.paper import evidence
from experiments.runtime import targets
from rllc_jax import checked_files
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import head_types
from rllc_jax.analysis import multigrams

STEPS = [0, 10, 100, 500, 1000]
MEASURED = [0, 10, 100, 1000]
HEADS = [f'{layer}:{head}' for layer in range(2) for head in range(8)]
# Layer 0: two previous-token heads; layer 1: two induction heads.
PREVIOUS, INDUCTION = ['0:1', '0:4'], ['1:6', '1:7']
MULTIGRAMS = [x for x in HEADS if x not in PREVIOUS + INDUCTION]


def levels():
  """rLLCs [4, 2, 16] in which every claim is true."""
  levels = np.full((4, 2, 16), 5.0)
  for k in range(1, 4):  # Step 0 is alike; then heads grow apart.
    for i, name in enumerate(HEADS):
      low = name in PREVIOUS + INDUCTION
      levels[k, :, i] = 5 + k * (1 if low else 8 + 0.1 * i)
  induction = [HEADS.index(name) for name in INDUCTION]
  levels[3, 1, induction] += [6, 10]  # On inductive data they rise, and part.
  return levels


def estimates(values, error=0.05):
  dims = 'checkpoint', 'dataset', 'refinement'
  labels = MEASURED, ['text', 'twice'][: values.shape[1]], HEADS
  return xr.Dataset(
    {
      'llc': (dims, values),
      'standard_error': (dims, np.full(values.shape, error)),
    },
    dict(zip(dims, labels, strict=True)),
  )


def readings():
  heads = 'checkpoint', 'layer', 'head'
  shape = len(STEPS), 2, 8
  even = {
    'previous_token': 0.03,
    'current_token': 0.03,
    'prefix_matching': 0.01,
  }
  score = {name: np.full(shape, 0.5 * x) for name, x in even.items()}
  text = np.full(shape, 0.01)
  for place, name in ((1, '0:1'), (4, '0:4')):
    assert name in PREVIOUS
    score['previous_token'][:, 0, place] = 0.8
  # The onset is step 10.
  text[2:, 1, 6:] = [[0.3, 0.25], [0.4, 0.3], [0.5, 0.4]]
  data = {name: (heads, value) for name, value in score.items()}
  data['prefix_matching_text'] = (heads, text)
  patterns = np.zeros((*shape, len(multigrams.PATTERNS)))
  patterns[..., multigrams.PATTERNS.index('ngram')] = 1
  patterns[:, 1, 6:, multigrams.PATTERNS.index('induction')] = 2
  data['patterns'] = ((*heads, 'pattern'), patterns)
  data['prefix_matching_text_beside'] = (heads, np.full(shape, 0.02))
  counts = np.broadcast_to(np.arange(16).reshape(2, 8) + 10, shape)
  data['num_ngrams'] = data['num_skip_ngrams'] = (heads, counts)
  data['null_multigrams'] = (heads, np.ones(shape))
  growing = np.arange(float(len(STEPS)))[:, None, None]
  pairs = 0.01 * np.random.default_rng(1).normal(size=(len(STEPS), 8, 8))
  composed = growing * _inside((0, 2, 3, 5, 6, 7), range(6))
  composed = composed + growing * _inside((1, 4), (6, 7))
  data['composition_K'] = (('checkpoint', 'writer', 'reader'), composed + pairs)
  for name, size in (('joint_nested', 1.0), ('joint_nested_control', 0.1)):
    nested = size * np.arange(float(len(STEPS)))[:, None]
    data[name] = (
      ('checkpoint', 'minibatch'),
      nested * np.linspace(0.9, 1.1, 3),
    )
  data['bigram'] = ('checkpoint', np.array([9.0, 4.0, 5.0, 6.0, 6.0]))
  data['even'] = ('score', list(even.values()))
  rng = np.random.default_rng(2)
  for name in ('hessian_trace', 'fisher_trace', 'weight_norm'):
    data[name] = (
      ('checkpoint', 'refinement'),
      rng.normal(size=(len(STEPS), 16)),
    )
  data['ablation_resample'] = (heads, rng.normal(size=shape))
  labels = {
    'checkpoint': STEPS,
    'score': list(head_scores.SCORES),
    'refinement': HEADS,
    'pattern': list(multigrams.PATTERNS),
  }
  assert list(even) == labels['score']
  return xr.Dataset(data, labels)


def _inside(writers, readers):
  mask = np.zeros((8, 8))
  mask[np.ix_(writers, readers)] = 1
  return mask


def run_with(change=lambda values: values, **changes):
  values = change(levels())
  reference = np.full((4, 1, 16), 5.0)
  reference[3, 0, :8] -= 2
  reference[3, 0, 8:] += 2
  final = values[-1, 0]
  run = evidence.Evidence(
    estimates(values),
    estimates(reference),
    np.stack([2 * final, 3 * final + 1]),
    readings(),
    'twice',
    [True, True],
  )
  return run._replace(**changes)


def measured(run, *statistics):
  """Findings by claim, from all or some of the statistics."""
  if not statistics:
    return {x.claim: x for x in claims.findings(run)}
  heads = evidence.sort_heads(run)
  return {x.claim: x for statistic in statistics for x in statistic(heads)}


@functools.cache
def planted():
  """Findings from evidence in which every claim is true."""
  return measured(run_with())


def test_heads_have_the_planted_classes():
  classes = head_types.of_readings(readings())
  for kind, names in (
    ('previous-token', PREVIOUS),
    ('induction', INDUCTION),
    (head_types.MULTIGRAM, MULTIGRAMS),
  ):
    assert [name for name in HEADS if classes[name] == kind] == names


def test_every_planted_claim_has_a_large_effect():
  findings = planted()
  assert list(findings) == list(claims.CLAIMS)
  for name, finding in findings.items():
    assert finding.effect >= claims.CLAIMS[name].least, finding
    assert finding.note, name


def test_sizes_are_those_by_hand():
  """24 more a multigram head at the end, 3 an induction head."""
  findings = planted()
  layer = [5 + 3 * (8 + 0.1 * i) for i in range(8, 14)]
  expected = {
    'C3': np.mean(layer) - 8,
    'C4': 1,
    'C5a': 8,
    'C5b': 4,
    'C6a': 2,
    'C6b': 2,
    'C8': 3,
    'C11': 1,
  }
  for claim, size in expected.items():
    np.testing.assert_allclose(findings[claim].effect, size, err_msg=claim)
  # Pairs of either circuit rise by 4, of the other by 4 or not at all.
  rest = 4 * 4 / (64 - 36)
  np.testing.assert_allclose(findings['C7a'].effect, 4 - rest, atol=0.03)
  rest = 4 * 36 / (64 - 4)
  np.testing.assert_allclose(findings['C7b'].effect, 4 - rest, atol=0.03)
  assert 'step 10' in findings['C6a'].note
  assert 'step 10 to' in findings['C1'].note
  # Of means of six and of two heads, 0.05 each.
  error = 0.05 * math.sqrt(1 / 6 + 1 / 2)
  np.testing.assert_allclose(findings['C3'].error, error)
  # Twice as many estimates, and differences of both data sets.
  error = 0.05 * math.sqrt(2 / 2 + 2 / 6)
  np.testing.assert_allclose(findings['C5a'].error, error)
  error = 0.05 * math.sqrt(4)
  np.testing.assert_allclose(findings['C5b'].error, error)


def test_the_error_of_a_spread_is_that_of_redrawn_estimates():
  values, errors = levels()[-1, 0, :8], np.linspace(0.02, 0.08, 8)
  spread, variance = claim_statistics._spread(evidence.Cells(values, errors))
  noise = errors * np.random.default_rng(0).normal(size=(20_000, 8))
  redrawn = (values + noise).std(axis=1, ddof=1)
  np.testing.assert_allclose(spread, redrawn.mean(), rtol=1e-3)
  np.testing.assert_allclose(math.sqrt(variance), redrawn.std(), rtol=0.03)
  # Two layers, at two steps of which the first has no spread.
  early, end = levels()[1, 0], levels()[-1, 0]
  layers = early[:8], early[8:], end[:8], end[8:]
  variances = [
    claim_statistics._spread(evidence.Cells(x, np.full(8, 0.05)))[1]
    for x in layers
  ]
  expected = math.sqrt(sum(variances)) / 2
  np.testing.assert_allclose(planted()['C1'].error, expected)


backwards = lambda values: values[::-1] * np.ones((4, 1, 1))
negative = lambda values: -values
exchanged = lambda values: values[:, ::-1]


@pytest.mark.parametrize(
  ('claim', 'statistic', 'change'),
  [
    ('C1', claim_statistics.growing_apart, backwards),
    ('C3', claim_statistics.induction_is_simple, negative),
    ('C4', claim_statistics.memory_is_complexity, negative),
    ('C5a', claim_statistics.inductive_data, exchanged),
    ('C5b', claim_statistics.inductive_data, exchanged),
  ],
)
def test_a_reversed_effect_is_negative(claim, statistic, change):
  finding = measured(run_with(change), statistic)[claim]
  np.testing.assert_allclose(finding.effect, -planted()[claim].effect, rtol=0.3)


def test_effects_reversed_in_time_are_not_positive():
  run = run_with()
  back = run.readings.copy()
  for name in ('composition_K', 'joint_nested'):
    back[name] = (back[name].dims, back[name].values[::-1])
  turned = run.reference.llc.values[::-1].copy()
  turned[1], turned[3] = turned[0], 5.0  # The onset is step 10.
  findings = measured(
    run._replace(readings=back, reference=estimates(turned)),
    claim_statistics.migration,
    claim_statistics.composition,
    claim_statistics.nested_brackets,
  )
  for name in ('C6a', 'C6b', 'C8'):
    np.testing.assert_allclose(findings[name].effect, -planted()[name].effect)
  # Their minimum is at the end.
  for name in ('C7a', 'C7b'):
    assert abs(findings[name].effect) < 0.02


def test_memory_is_compared_within_layers():
  """Layers apart in both would give a correlation without one inside."""
  run = run_with()
  values = run.estimates.llc.values.copy()
  values[-1, 0, :8] = np.array([1, 2, 3, 4, 1, 2, 3, 4]) + 0.0
  values[-1, 0, 8:] = np.array([1, 2, 3, 4, 1, 2, 3, 4]) + 90.0
  counts = [4, 0, 3, 2, 0, 4, 3, 2]
  memorized = np.array([counts, [9 + x for x in counts[::-1]]])
  data = run.readings.assign(
    true_words=(('layer', 'head'), memorized),
    true_pairs=(('layer', 'head'), 0 * memorized),
  )
  run = run._replace(readings=data, estimates=estimates(values))
  finding = measured(run, claim_statistics.memory_is_complexity)['C4']
  assert abs(finding.effect) < 0.7


def test_random_curves_tell_no_classes():
  heads, rng = evidence.sort_heads(run_with()), np.random.default_rng(5)
  effects = [
    np.mean(
      claim_statistics._indices(heads, lambda x: rng.normal(size=(len(x), 4)))
    )
    for _ in range(40)
  ]
  assert abs(np.mean(effects)) < 4 * np.std(effects) / math.sqrt(40)


def test_equally_good_measures_have_no_effect():
  run = run_with()
  data = run.readings.copy()
  values = np.insert(levels()[:, 0], 3, 7.0, axis=0)  # Step 500 plays no part.
  for name in ('hessian_trace', 'fisher_trace', 'weight_norm'):
    data[name] = (data[name].dims, values)
  ablation = data.ablation_resample
  data['ablation_resample'] = (ablation.dims, values.reshape(5, 2, 8))
  run = run._replace(readings=data)
  findings = measured(run, claim_statistics.curves_tell_classes)
  assert findings['C2'].effect > 0.9
  np.testing.assert_allclose(findings['C10'].effect, 0, atol=1e-9)


def test_order_must_be_stable_within_layers_at_every_setting():
  def effect(*swept):
    run = run_with(swept=np.stack(swept))
    return measured(run, claim_statistics.order_is_stable)['C9'].effect

  final = levels()[-1, 0]
  assert effect(final, 2 * final) > 1
  assert effect(final, -final) < -1
  assert math.isnan(effect(final, 0 * final))
  shuffled = final.reshape(2, 8).copy()
  for layer in shuffled:
    np.random.default_rng(0).shuffle(layer)
  # Layers keep their order among each other, which counts for nothing.
  assert effect(final, shuffled.ravel() + 100 * np.repeat([0, 1], 8)) < 0


def test_one_wrong_known_answer_refutes_the_claim():
  run = run_with(known_answers=[True, False])
  finding = measured(run, claim_statistics.known_answers)['C11']
  assert finding.effect == 0


def test_what_cannot_be_measured_has_a_reason():
  run = run_with(reference=None)
  idle = run.readings.copy()
  idle['prefix_matching_text'] = 0 * idle.prefix_matching_text
  findings = measured(run._replace(readings=idle))
  for name in ('C3', 'C5a', 'C5b', 'C6a', 'C6b', 'C7b', 'C8'):
    assert math.isnan(findings[name].effect), name
    assert findings[name].note
  assert findings['C6a'].note == 'no one-layer model'
  assert findings['C1'].effect > 1
  one_layer = run.readings.drop_vars(['joint_nested', 'composition_K'])
  findings = measured(
    run._replace(readings=one_layer),
    claim_statistics.composition,
    claim_statistics.nested_brackets,
  )
  for name in ('C7a', 'C7b', 'C8'):
    assert findings[name].note == 'one layer'
  without = run.readings.assign(joint_nested=np.nan * run.readings.joint_nested)
  run = run._replace(readings=without)
  finding = measured(run, claim_statistics.nested_brackets)['C8']
  assert 'no closing of nested brackets' in finding.note


def write_findings(directory, effects):
  """A seed of a language each, with the same effect for every claim."""
  for seed, effect in enumerate(effects):
    findings = [
      claim_runs._to_json(evidence.Finding(claim, effect, math.nan, 'x'))
      for claim in claims.CLAIMS
      if claim != 'C6a'
    ]
    unmeasured = evidence.Finding('C6a', math.nan, math.nan, 'none')
    findings.append(claim_runs._to_json(unmeasured))
    record = {'language': 'code', 'seed': seed, 'findings': findings}
    path = directory / f'code-{seed}' / 'claims.json'
    checked_files.write_json(path, record)


@pytest.mark.parametrize(
  ('effects', 'holds'),
  [
    ((9.0, 9.1, 8.9, 9.0), True),
    ((-9.0, -9.1, -8.9, -9.0), False),
    ((9.0, -9.0, 9.0, -9.0), None),
    ((9.0, 9.1), None),
  ],
)
def test_seeds_are_put_together_in_short_lines(tmp_path, effects, holds):
  write_findings(tmp_path, effects)
  found = claim_runs.read_effects(tmp_path)
  rows = claim_runs.verdicts(found)
  assert len(rows) == len(claims.CLAIMS) - 1
  assert all(row.holds is holds for row in rows)
  lines = targets.table(rows).split('\n')
  assert max(map(len, lines)) < 100
  assert not any('nan' in line for line in lines)
  assert 'not measured: C6a on code' in claim_runs.legend(found)
  for row in claim_runs.power(found):
    assert row.value == pytest.approx(np.std(effects, ddof=1))


def test_what_all_seeds_share_is_copied_once(tmp_path):
  done = tmp_path / 'code-0' / 'corpus'
  done.mkdir(parents=True)
  (done / 'corpus.json').write_text('made')
  (tmp_path / 'code-0' / 'one_layer').mkdir()  # Without its last file.
  directory = tmp_path / 'code-1'
  for _ in range(2):
    claim_runs.share_with_siblings(directory)
    (directory / 'corpus' / 'corpus.json').write_text('kept')
  assert [path.name for path in directory.iterdir()] == ['corpus']
  claim_runs.share_with_siblings(tmp_path / 'other-1')
  assert not (tmp_path / 'other-1').exists()
  assert (directory / 'corpus' / 'corpus.json').read_text() == 'kept'


def test_no_study_is_named(tmp_path):
  with pytest.raises(ValueError, match='--language'):
    claim_runs.read_effects(tmp_path)
