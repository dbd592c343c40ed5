"""Statistics are positive where a claim is planted, negative if reversed."""

import functools
import json
import math
import pathlib
import types

import numpy as np
import pytest
import xarray as xr

from experiments.paper import claim_runs as verdicts
from experiments.paper import claim_statistics
from experiments.paper import claims
from experiments.paper import evidence
from experiments.runtime import targets
from rllc_jax import checked_files
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import head_types
from rllc_jax.analysis import multigrams

STEPS = [0, 10, 100, 1000]
HEADS = [f'{layer}:{head}' for layer in range(2) for head in range(8)]
# Layer 0: two previous-token heads; layer 1: two induction heads.
PREVIOUS, INDUCTION = ['0:1', '0:4'], ['1:6', '1:7']
MULTIGRAMS = [x for x in HEADS if x not in PREVIOUS + INDUCTION]


def levels():
  """rLLCs [4, 2, 16] in which every claim is true."""
  levels = np.full((4, 2, 16), 5.0)
  memorized = np.arange(16)
  for k in range(1, 4):  # Step 0 is alike; then heads grow apart.
    for i, name in enumerate(HEADS):
      low = name in PREVIOUS + INDUCTION
      levels[k, :, i] = 5 + k * (1 if low else 8 + 0.1 * memorized[i])
  induction = [HEADS.index(name) for name in INDUCTION]
  levels[3, 1, induction] += [6, 10]  # On code they rise, and part.
  return levels


def by_draw(values, seed=0, scale=0.05):
  rng = np.random.default_rng(seed)
  noise = scale * rng.normal(size=(*values.shape, 64))
  labels = {
    'checkpoint': STEPS,
    'dataset': ['text', 'code'][: values.shape[1]],
    'refinement': HEADS,
  }
  return xr.DataArray(values[..., None] + noise, labels, (*labels, 'draw'))


def readings():
  heads = 'checkpoint', 'layer', 'head'
  even = {
    'previous_token': 0.03,
    'current_token': 0.03,
    'prefix_matching': 0.01,
  }
  score = {name: np.full((4, 2, 8), 0.5 * x) for name, x in even.items()}
  text = np.full((4, 2, 8), 0.01)
  for place, name in ((1, '0:1'), (4, '0:4')):
    assert name in PREVIOUS
    score['previous_token'][:, 0, place] = 0.8
  text[2:, 1, 6:] = [[0.3, 0.25], [0.5, 0.4]]  # The onset is step 10.
  data = {name: (heads, value) for name, value in score.items()}
  data['prefix_matching_text'] = (heads, text)
  patterns = np.zeros((4, 2, 8, len(multigrams.PATTERNS)))
  patterns[..., multigrams.PATTERNS.index('ngram')] = 1
  patterns[:, 1, 6:, multigrams.PATTERNS.index('induction')] = 2
  data['patterns'] = ((*heads, 'pattern'), patterns)
  data['prefix_matching_text_beside'] = (heads, np.full((4, 2, 8), 0.02))
  counts = np.broadcast_to(np.arange(16).reshape(2, 8) + 1, (4, 2, 8))
  data['num_ngrams'] = data['num_skip_ngrams'] = (heads, counts)
  growing = np.arange(4.0)[:, None, None]
  pairs = 0.01 * np.random.default_rng(1).normal(size=(4, 8, 8))
  edges = 'checkpoint', 'writer', 'reader'
  data['composition_K'] = (edges, growing + pairs)
  nested = growing[..., None] + 0.01 * np.arange(3)
  nested = nested * np.linspace(0.9, 1.1, 3)
  data['path_nested'] = (
    (*edges, 'minibatch'),
    np.broadcast_to(nested, (4, 8, 8, 3)),
  )
  data['bigram'] = ('checkpoint', np.array([9.0, 4.0, 5.0, 6.0]))
  data['even'] = ('score', list(even.values()))
  rng = np.random.default_rng(2)
  for name in ('hessian_trace', 'fisher_trace'):
    data[name] = (('checkpoint', 'refinement'), rng.normal(size=(4, 16)))
  data['ablation_resample'] = (heads, rng.normal(size=(4, 2, 8)))
  labels = {
    'checkpoint': STEPS,
    'score': list(head_scores.SCORES),
    'refinement': HEADS,
    'pattern': list(multigrams.PATTERNS),
  }
  assert list(even) == labels['score']
  return xr.Dataset(data, labels)


def run_with(change=lambda values: values, **changes):
  values = change(levels())
  reference = np.full((4, 1, 16), 5.0)
  reference[3, 0, :8] -= 2
  reference[3, 0, 8:] += 2
  final = values[-1, 0]
  run = evidence.Evidence(
    by_draw(values),
    by_draw(reference, seed=1),
    np.stack([2 * final, 3 * final + 1]),
    readings(),
    'code',
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


@pytest.fixture
def nothing_withdrawn(monkeypatch):
  """Withdraws no claim, to test the statistics of all."""
  monkeypatch.setattr(claims, 'WITHDRAWN', {})


def test_heads_have_the_planted_classes():
  classes = head_types.of_readings(readings())
  for kind, names in (
    ('previous-token', PREVIOUS),
    ('induction', INDUCTION),
    (head_types.MULTIGRAM, MULTIGRAMS),
  ):
    assert [name for name in HEADS if classes[name] == kind] == names


@pytest.mark.usefixtures('nothing_withdrawn')
def test_every_planted_claim_holds():
  findings = planted()
  assert list(findings) == list(claims.STATEMENTS)
  for name, finding in findings.items():
    assert claims.verdict([finding]) is True, finding
    assert finding.note, name
  # Sizes by hand: 24 more a multigram head, less 3 of an induction head.
  layer = [5 + 3 * (8 + 0.1 * i) for i in range(8, 14)]
  np.testing.assert_allclose(
    findings['C3'].effect, np.mean(layer) - 8, atol=0.03
  )
  np.testing.assert_allclose(findings['C5a'].effect, 8, atol=0.05)
  np.testing.assert_allclose(findings['C5b'].effect, 4, atol=0.1)
  np.testing.assert_allclose(findings['C6a'].effect, 2, atol=0.03)
  np.testing.assert_allclose(findings['C6b'].effect, 2, atol=0.03)
  np.testing.assert_allclose(findings['C7a'].effect, 2, atol=0.01)
  np.testing.assert_allclose(findings['C4'].effect, 1)
  assert (
    'step 10' in findings['C6a'].note and 'step 10 to' in findings['C1'].note
  )
  # The error of a mean of independent draws: 0.05 a draw and head.
  expected = 0.05 * math.sqrt(1 / 6 + 1 / 2) / 8
  np.testing.assert_allclose(findings['C3'].error, expected, rtol=0.5)


def test_an_index_of_one_is_far_from_chance():
  """Two of eight: a permutation is right in one of 28."""
  finding = planted()['C2']
  assert 'index 1.00' in finding.note
  np.testing.assert_allclose(finding.effect, 1, atol=0.05)
  assert 0.1 < finding.error < 0.3


backwards = lambda values: values[::-1] * np.ones((4, 1, 1))
negative = lambda values: -values
exchanged = lambda values: values[:, ::-1]
REVERSED = (
  ('C1', claim_statistics.growing_apart, backwards),
  ('C3', claim_statistics.induction_is_simple, negative),
  ('C4', claim_statistics.memory_is_complexity, negative),
  ('C5a', claim_statistics.code, exchanged),
  ('C5b', claim_statistics.code, exchanged),
)


@pytest.mark.usefixtures('nothing_withdrawn')
@pytest.mark.parametrize(('claim', 'statistic', 'change'), REVERSED)
def test_a_reversed_effect_does_not_hold(claim, statistic, change):
  finding = measured(run_with(change), statistic)[claim]
  assert claims.verdict([finding]) is False, finding


@pytest.mark.usefixtures('nothing_withdrawn')
@pytest.mark.parametrize(
  ('statistic', 'names'),
  [
    (claim_statistics.migration, ['C6a', 'C6b']),
    (claim_statistics.composition, ['C7a', 'C7b']),
    (claim_statistics.nested_brackets, ['C8']),
  ],
)
def test_an_effect_reversed_in_time_does_not_hold(statistic, names):
  run = run_with()
  back = run.readings.copy()
  for name in ('composition_K', 'path_nested'):
    back[name] = (back[name].dims, back[name].values[::-1])
  turned = by_draw(run.reference.mean('draw').values[::-1])
  turned[1:3] = turned[0].values  # The onset is step 10.
  turned[3] = 5.0 + 0.001 * np.random.default_rng(0).normal(size=(1, 16, 64))
  findings = measured(run._replace(readings=back, reference=turned), statistic)
  for name in names:
    assert claims.verdict([findings[name]]) is False, findings[name]


def test_the_null_equals_the_index_under_permutations():
  rng = np.random.default_rng(3)
  layers = [
    (np.array([0, 0, 1, 1, 1, 2, 2, 2]), np.array(list('aabbbbcc'))),
    (np.array([0, 1, 1, 1, 1, 1, 1, 1]), np.array(list('aabbbbbb'))),
  ]
  null = claim_statistics._null_indices(layers)
  assert abs(null.mean()) < 4 * null.std() / math.sqrt(len(null))
  expected = [
    claim_statistics._mean_index(
      [(labels, rng.permutation(classes)) for labels, classes in layers]
    )
    for _ in range(200)
  ]
  np.testing.assert_allclose(null.std(), np.std(expected), rtol=0.2)
  np.testing.assert_allclose(null.max(), np.max(expected), rtol=0.5)


def test_random_curves_leave_the_claims_undecided():
  values = 5 + 0.1 * np.random.default_rng(5).normal(size=(4, 2, 16))
  run = run_with(lambda _: values)
  findings = measured(run, claim_statistics.curves_tell_classes)
  for name in ('C2', 'C10'):
    assert claims.verdict([findings[name]]) is None


def test_equally_good_measures_have_no_effect():
  run = run_with()
  readings = run.readings.copy()
  values = levels()[:, 0]
  for name in ('hessian_trace', 'fisher_trace'):
    readings[name] = (readings[name].dims, values)
  ablation = readings.ablation_resample
  readings['ablation_resample'] = (ablation.dims, values.reshape(4, 2, 8))
  run = run._replace(readings=readings)
  findings = measured(run, claim_statistics.curves_tell_classes)
  assert findings['C2'].effect > 0.9
  np.testing.assert_allclose(findings['C10'].effect, 0, atol=1e-9)


def test_order_must_be_stable_at_every_setting():
  def verdict(run, *swept):
    run = run._replace(swept=np.stack(swept))
    finding = measured(run, claim_statistics.order_is_stable)['C9']
    return claims.verdict([finding])

  final, exact = levels()[-1, 0], run_with()
  shuffled = np.random.default_rng(0).permutation(final)
  assert verdict(exact, final, shuffled) is not True
  assert verdict(exact, final, -final) is False
  last = exact.draws.sel(checkpoint=1000, dataset='text').mean('draw').values
  for third, expected in ((-last, False), (0 * last, None), (last, True)):
    assert verdict(exact, last, third) is expected


def test_one_wrong_known_answer_refutes_the_claim():
  run = run_with(known_answers=[True, False])
  finding = measured(run, claim_statistics.known_answers)['C11']
  assert claims.verdict([finding]) is False


def test_most_claims_are_undecided_without_induction_heads():
  run = run_with()
  idle = run.readings.copy()
  idle['prefix_matching_text'] = 0 * idle.prefix_matching_text
  findings = measured(run._replace(readings=idle))
  for name in ('C3', 'C5a', 'C5b', 'C6a', 'C6b', 'C7a', 'C7b', 'C8'):
    assert math.isnan(findings[name].effect), name
    assert claims.verdict([findings[name]]) is None
    assert findings[name].note
  assert claims.verdict([findings['C1']]) is True


@pytest.mark.usefixtures('nothing_withdrawn')
def test_notes_name_missing_brackets_and_layers():
  run = run_with()
  without = run.readings.assign(path_nested=np.nan * run.readings.path_nested)
  run = run._replace(readings=without)
  findings = measured(run, claim_statistics.nested_brackets)
  assert 'no closing of nested brackets' in findings['C8'].note
  one_layer = run.readings.drop_vars(['path_nested', 'composition_K'])
  findings = measured(
    run._replace(readings=one_layer),
    claim_statistics.composition,
    claim_statistics.nested_brackets,
    claim_statistics.induction_is_simple,
  )
  for name in ('C7a', 'C7b', 'C8'):
    assert findings[name].note == 'one layer'
  assert claims.verdict([findings['C3']]) is True


def test_verdicts_need_every_seed():
  finding = lambda effect: evidence.Finding('C3', effect, 0.4, '', '')
  assert claims.verdict([finding(1.0), finding(2.0)]) is True
  assert claims.verdict([finding(-1.0), finding(-2.0)]) is False
  assert claims.verdict([finding(1.0), finding(-2.0)]) is None
  assert claims.verdict([finding(1.0), finding(0.7)]) is None
  assert claims.verdict([finding(1.0), finding(math.nan)]) is None
  assert claims.verdict([]) is None


NOW_WITHDRAWN = ['C4', 'C7a', 'C7b', 'C8']
RESULTS = pathlib.Path(verdicts.__file__).parents[1] / 'results'


def test_c4_c7_and_c8_are_withdrawn_and_no_other_claim():
  assert [x for x in claims.STATEMENTS if claims.withdrawn(x)] == NOW_WITHDRAWN
  assert set(claims.WITHDRAWN) <= {*claims.STATEMENTS, head_types.MULTIGRAM}


def test_reasons_are_given_once():
  words = claims.withdrawn('C4', 'C1', 'C8', 'C4')
  assert words.startswith('withdrawn: untrained heads')
  assert words.count('untrained') == words.count('withdrawn') == 1
  assert 'brackets' in words
  assert claims.withdrawn('C1', 'C2') == claims.withdrawn() == ''


@pytest.mark.parametrize('claim', NOW_WITHDRAWN)
@pytest.mark.parametrize('effect', [9.0, -9.0])
def test_a_withdrawn_claim_is_never_decided(claim, effect):
  finding = evidence.Finding(claim, effect, 0.1, '', '13 heads')
  assert claims.verdict([finding]) is claims.verdict([finding, finding]) is None


def test_notes_of_findings_name_withdrawn_claims():
  for finding in claims.findings(run_with()):
    marked = finding.note.startswith('withdrawn: ')
    assert marked == (finding.claim in NOW_WITHDRAWN), finding


def write_findings(directory, effect):
  """Two seeds of a language, each with the same effect for every claim."""
  for seed in (0, 1):
    findings = [
      verdicts._to_json(evidence.Finding(claim, effect, 0.1, '', '13 heads'))
      for claim in claims.STATEMENTS
    ]
    record = {'language': 'planted', 'seed': seed, 'findings': findings}
    path = directory / f'planted-{seed}' / 'claims.json'
    checked_files.write_json(path, record)


@pytest.mark.parametrize('effect', [9.0, -9.0, math.nan])
def test_the_table_shows_withdrawn_claims_as_neither_yes_nor_no(
  tmp_path, effect
):
  write_findings(tmp_path, effect)
  rows = verdicts.verdicts(tmp_path)
  assert len(rows) == len(claims.STATEMENTS)
  lines = targets.table(rows).split('\n')[1:]
  for row, line in zip(rows, lines, strict=True):
    if row.name.split()[0] in NOW_WITHDRAWN:
      assert row.holds is None and math.isnan(row.value)
      assert row.note.startswith('withdrawn: ') and 'seed 1' in row.note
      assert row.note.count('withdrawn') == 1
      assert 'withdrawn' in line and 'yes' not in line and 'NO' not in line
    else:
      expected = {9.0: True, -9.0: False}.get(effect)
      assert row.holds is expected and 'withdrawn' not in line


def test_a_withdrawn_claim_does_not_hold_in_json_nor_in_the_exit_status(
  tmp_path, monkeypatch
):
  write_findings(tmp_path, 9.0)
  rows = verdicts.verdicts(tmp_path)
  path = tmp_path / 'rows.json'
  targets.write_json(path, rows)
  for item in json.loads(path.read_text()):
    if item['name'].split()[0] in NOW_WITHDRAWN:
      assert item['holds'] is None and item['value'] is None
      assert item['note'].startswith('withdrawn: ')
  monkeypatch.setattr(targets, 'JSON', types.SimpleNamespace(value=None))
  with pytest.raises(SystemExit, match='1'):
    targets.finish(rows)
  decided = [row for row in rows if row.holds is not None]
  assert len(decided) == len(rows) - len(NOW_WITHDRAWN)
  targets.finish(decided)  # All of them hold.


def test_saved_findings_have_no_verdict_on_withdrawn_claims(tmp_path):
  write_findings(tmp_path, 9.0)
  record = json.loads((tmp_path / 'planted-0' / 'claims.json').read_text())
  for item in record['findings']:
    assert (item['holds'] is None) == (item['claim'] in NOW_WITHDRAWN)


def test_old_findings_show_that_a_claim_is_withdrawn():
  """The committed findings have verdicts on C7a."""
  rows = {row.name.split(':')[0]: row for row in verdicts.verdicts(RESULTS)}
  for language in verdicts.LANGUAGES:
    for claim in NOW_WITHDRAWN:
      row = rows[f'{claim} {language}']
      assert row.holds is None and row.note.startswith('withdrawn: ')
  assert rows['C1 planted'].holds is True
