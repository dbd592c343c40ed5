"""Statistics of the claims in `experiments.paper.claims`.

Each function takes the heads of one training run and returns the findings for
one claim or two.
"""

from collections.abc import Callable
import math

import numpy as np
from scipy import stats
import xarray as xr

from experiments.paper import evidence
from rllc_jax.analysis import curves
from rllc_jax.analysis import head_types
from rllc_jax.estimators import llc
from rllc_jax.refinement import names as naming

_PERMUTATIONS = 2_000
_NULL_CORRELATION = 0.5
_LARGEST_CORRELATION = 0.999  # Fisher's z is infinite at 1.
BASELINES = ('hessian_trace', 'fisher_trace', 'ablation_resample')


def growing_apart(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C1: heads of a layer start alike and grow apart."""
  nearest = int(np.argmin(heads.evidence.readings.bigram.values))
  early = heads.steps[nearest]
  if early == heads.end:
    return [
      evidence.missing('C1', 'predictions are nearest to pairs at the end')
    ]
  effects, squares = [], []
  for names in heads.layers.values():
    if len(names) < 2:  # No spread.
      continue
    cells = heads.evidence.draws.sel(dataset=heads.text, refinement=names)
    estimates = llc.of_draws(cells.sel(checkpoint=[early, heads.end]))
    estimates = estimates.transpose('checkpoint', 'refinement')
    values = estimates.llc.values
    spreads = values.std(axis=1, ddof=1)
    centered = values - values.mean(axis=1, keepdims=True)
    # Derivatives of a standard deviation by each value, to propagate errors.
    slopes = centered / (spreads[:, None] * (len(names) - 1))
    effects.append(spreads[1] - spreads[0])
    squares.append(np.sum((slopes * estimates.standard_error.values) ** 2))
  error = math.sqrt(sum(squares)) / len(squares)
  note = f'from step {early} to {heads.end}'
  return [evidence.Finding('C1', float(np.mean(effects)), error, 'rLLC', note)]


def curves_tell_classes(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C2 and C10: wrLLC curves recover classes, other measures less."""
  estimates = heads.evidence.draws.sel(dataset=heads.text).mean('draw')
  curves_of = lambda names: estimates.sel(refinement=names).values.T
  by_wrllc = _cluster_layers(heads, curves_of)
  if not by_wrllc:
    reason = 'no layer has heads of two classes'
    return [evidence.missing('C2', reason), evidence.missing('C10', reason)]
  index, nulls = _mean_index(by_wrllc), _null_indices(by_wrllc)
  note = f'index {index:.2f}; {heads.words}'
  first = evidence.Finding('C2', index - nulls.mean(), nulls.std(), '', note)
  baselines = [
    _cluster_layers(heads, lambda names, x=name: heads.reading(x, names).T)
    for name in BASELINES
  ]
  indices = [_mean_index(layers) for layers in baselines]
  null = nulls - np.mean(
    [_null_indices(layers) for layers in baselines], axis=0
  )
  effect = index - np.mean(indices) - null.mean()
  words = zip(BASELINES, indices, strict=True)
  note = ', '.join(f'{name} {value:.2f}' for name, value in words)
  return [
    first,
    evidence.Finding('C10', float(effect), float(null.std()), '', note),
  ]


# By layer: the clusters of its curves, and the classes of its heads.
_Layers = list[tuple[np.ndarray, np.ndarray]]


def _cluster_layers(heads: evidence.Heads, curves_of: Callable) -> _Layers:
  """Clusters the curves [n, K] of each layer that has two classes or more."""
  layers = []
  for names in heads.layers.values():
    classes = np.array([heads.classes[name] for name in names])
    if len(set(classes)) > 1:
      values = curves_of(names)
      # k-means needs as many distinct curves as clusters.
      count = min(len(set(classes)), len(np.unique(values, axis=0)))
      layers.append((curves.cluster_curves(values, count).labels, classes))
  return layers


def _mean_index(layers: _Layers) -> float:
  """Adjusted Rand index, mean over layers."""
  return float(np.mean([curves.agreement(*layer) for layer in layers]))


def _null_indices(layers: _Layers) -> np.ndarray:
  """Adjusted Rand index under permutations of the classes, [P].

  The index is (m - E[m]) / (max m - E[m]) of the number m of pairs that are
  together in both groupings; E[m] is its mean under permutations.
  """
  # A fixed seed, so that all measures are compared under the same permutations.
  rng = np.random.default_rng(0)
  indices = []
  for labels, classes in layers:
    a, b = (np.equal.outer(x, np.unique(x)) for x in (labels, classes))
    order = rng.permuted(np.tile(np.arange(len(b)), (_PERMUTATIONS, 1)), axis=1)
    overlaps = np.einsum('na,pnb->pab', a.astype(int), b[order].astype(int))
    pairs = lambda counts: counts * (counts - 1) / 2
    together = pairs(overlaps).sum(axis=(1, 2))
    first, second = (pairs(x.sum(axis=0)).sum() for x in (a, b))
    expected = first * second / pairs(len(b))
    largest = (first + second) / 2
    scale = largest - expected
    indices.append((together - expected) / scale if scale else 0 * together)
  return np.mean(indices, axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Spearman correlation; NaN if an input is constant."""
  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return math.nan
  return float(stats.spearmanr(a, b).statistic)


def induction_is_simple(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C3: induction heads end below the multigram heads of their layer."""
  if not heads.induction or not heads.last_multigrams:
    return [evidence.missing('C3', heads.words)]
  mean = lambda names: heads.mean(heads.evidence.draws, names, heads.end)
  difference = mean(heads.last_multigrams) - mean(heads.induction)
  note = (
    f'{", ".join(heads.induction)} against {", ".join(heads.last_multigrams)}'
  )
  return [evidence.of_draws('C3', difference, note)]


def memory_is_complexity(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C4: wrLLC of multigram heads grows with what they memorized."""
  names = heads.having(head_types.MULTIGRAM)
  if len(names) < 4:
    return [evidence.missing('C4', f'multigram heads: {len(names)}')]
  cells = heads.evidence.draws.sel(dataset=heads.text, checkpoint=heads.end)
  final = cells.sel(refinement=names).mean('draw').values
  kinds = 'num_ngrams', 'num_skip_ngrams'
  counts = np.sum([heads.reading(kind, names)[-1] for kind in kinds], axis=0)
  effect = _correlation(final, counts)
  error = 1 / math.sqrt(len(names) - 1)
  return [evidence.Finding('C4', effect, error, '', f'{len(names)} heads')]


def code(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C5a and C5b: induction heads rise and part on code."""
  last = heads.layers[max(heads.layers)]
  rest = [name for name in last if name not in heads.induction]
  if not heads.induction or not rest:
    reason = heads.words
    return [evidence.missing('C5a', reason), evidence.missing('C5b', reason)]
  draws, code = heads.evidence.draws, heads.evidence.code
  above = lambda dataset: (
    heads.mean(draws, heads.induction, heads.end, dataset)
    - heads.mean(draws, rest, heads.end, dataset)
  )
  note = f'{", ".join(heads.induction)} on {code}'
  findings = [evidence.of_draws('C5a', above(code) - above(heads.text), note)]
  if len(heads.induction) < 2:
    return [*findings, evidence.missing('C5b', 'one induction head')]
  scores = heads.reading('prefix_matching_text', heads.induction)[-1]
  pair = [heads.induction[i] for i in np.argsort(-scores)[:2]]

  def apart(dataset):
    first, second = (heads.mean(draws, [x], heads.end, dataset) for x in pair)
    difference = first - second
    # The sign of the mean: |difference| by draw would be biased upwards.
    return difference * np.sign(float(difference.mean()))

  difference = apart(code) - apart(heads.text)
  return [
    *findings,
    evidence.of_draws('C5b', difference, f'{pair[0]} and {pair[1]}'),
  ]


def migration(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C6a and C6b: multigram heads move from first to last layer."""
  findings = []
  for claim, names, sign in (
    ('C6a', heads.first_multigrams, -1),
    ('C6b', heads.last_multigrams, 1),
  ):
    if heads.onset is None or not names:
      findings.append(evidence.missing(claim, heads.words))
      continue
    mean = lambda step, heads_of_claim=names: heads.mean(
      heads.evidence.reference, heads_of_claim, step
    )
    change = sign * (mean(heads.end) - mean(heads.onset))
    note = f'{", ".join(names)} from step {heads.onset}'
    findings.append(evidence.of_draws(claim, change, note))
  return findings


def composition(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C7a and C7b: heads of the two circuits come to compose."""
  pairs = {
    'C7a': (heads.first_multigrams, heads.last_multigrams),
    'C7b': (heads.having('previous-token', 0), heads.induction),
  }
  findings = []
  for claim, (writers, readers) in pairs.items():
    count = len(writers) * len(readers)
    if 'composition_K' not in heads.evidence.readings:
      findings.append(evidence.missing(claim, 'one layer'))
      continue
    if heads.onset is None or count < 2:
      findings.append(evidence.missing(claim, f'pairs: {count}'))
      continue
    scores = _pair_scores(heads, 'composition_K', writers, readers)
    change = (
      scores.sel(checkpoint=heads.end) - scores.sel(checkpoint=heads.onset)
    ).values.ravel()
    error = change.std(ddof=1) / math.sqrt(count)
    note = f'{count} pairs from step {heads.onset}'
    findings.append(
      evidence.Finding(claim, float(change.mean()), float(error), '', note)
    )
  return findings


def _pair_scores(heads, name, writers, readers) -> xr.DataArray:
  index = lambda heads: [naming.place(head)[1] for head in heads]
  scores = heads.evidence.readings[name]
  return scores.isel(writer=index(writers), reader=index(readers))


def nested_brackets(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C8: closing nested brackets comes to need the multigram circuit."""
  writers, readers = heads.first_multigrams, heads.last_multigrams
  if 'path_nested' not in heads.evidence.readings:
    return [evidence.missing('C8', 'one layer')]
  if heads.onset is None or not writers or not readers:
    return [evidence.missing('C8', heads.words)]
  rise = _pair_scores(heads, 'path_nested', writers, readers)
  rise = rise.mean(('writer', 'reader'))
  change = (
    rise.sel(checkpoint=heads.end) - rise.sel(checkpoint=heads.onset)
  ).values
  change = change[np.isfinite(change)]
  if len(change) < 2:
    return [evidence.missing('C8', 'no closing of nested brackets in the text')]
  error = change.std(ddof=1) / math.sqrt(len(change))
  note = f'{len(writers)} by {len(readers)} heads from step {heads.onset}'
  return [
    evidence.Finding('C8', float(change.mean()), float(error), 'nats', note)
  ]


def order_is_stable(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C9: the order of heads is stable to the settings."""
  cells = heads.evidence.draws.sel(dataset=heads.text, checkpoint=heads.end)
  final, count = cells.mean('draw').values, len(heads.names)
  if count < 5:
    return [evidence.missing('C9', f'{count} heads')]
  correlations = [
    _correlation(final, estimates) for estimates in heads.evidence.swept
  ]
  least, limit = (
    float(np.min(correlations)),
    _LARGEST_CORRELATION,
  )  # NaN stays NaN.
  scale = lambda r: math.atanh(float(np.clip(r, -limit, limit)))
  effect = scale(least) - scale(_NULL_CORRELATION)
  # Standard error of Fisher's z for a Spearman correlation.
  error = 1.06 / math.sqrt(count - 3)
  note = f'least correlation {least:.3f} of {len(heads.evidence.swept)}'
  return [evidence.Finding('C9', effect, error, 'z', note)]


def known_answers(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C11: the estimator meets every known answer."""
  met = heads.evidence.known_answers
  note = f'{sum(met)} of {len(met)}'
  return [
    evidence.Finding('C11', 1.0 if met and all(met) else -1.0, 0.0, '', note)
  ]
