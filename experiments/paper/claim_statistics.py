"""Statistics of the claims in `experiments.paper.claims`.

Each function takes the heads of one training run and returns the findings for
one claim or two.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math

import numpy as np
from scipy import stats

from experiments.paper import evidence
from rllc_jax.analysis import curves
from rllc_jax.analysis import head_types
from rllc_jax.refinement import names as naming

NULL_CORRELATION = 0.5
_LARGEST_CORRELATION = 0.999  # Fisher's z is infinite at 1.
BASELINES = (
  'hessian_trace',
  'fisher_trace',
  'ablation_resample',
  'weight_norm',
)


def growing_apart(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C1: heads of a layer start alike and grow apart."""
  readings = heads.evidence.readings
  nearest = int(heads.steps[int(np.argmin(readings.bigram.values))])
  early = heads.measured_by(nearest)
  if early == heads.end:
    return [
      evidence.missing('C1', 'predictions are nearest to pairs at the end')
    ]
  changes, variances = [], []
  for names in heads.layers.values():
    if len(names) < 2:  # No spread.
      continue
    spreads = [_spread(heads.cells(names, step)) for step in (early, heads.end)]
    changes.append(spreads[1][0] - spreads[0][0])
    variances.append(sum(variance for _, variance in spreads))
  error = math.sqrt(sum(variances)) / len(variances)
  note = f'from step {early} to {heads.end}'
  return [evidence.Finding('C1', float(np.mean(changes)), error, note)]


def _spread(cells: evidence.Cells) -> tuple[float, float]:
  """The standard deviation between heads, and its variance within the run."""
  spread = float(cells.values.std(ddof=1))
  if not spread:
    return 0.0, 0.0
  # Derivatives of a standard deviation by each value carry the errors.
  slopes = (cells.values - cells.mean) / (spread * (len(cells.values) - 1))
  return spread, float(np.sum((slopes * cells.errors) ** 2))


def curves_tell_classes(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C2 and C10: wrLLC curves recover classes, other measures less."""
  estimates = heads.evidence.estimates.llc.sel(dataset=heads.text)
  estimates = estimates.sel(checkpoint=heads.measured)
  curves_of = lambda names: estimates.sel(refinement=names).values.T
  by_wrllc = _indices(heads, curves_of)
  if not by_wrllc:
    reason = 'no layer has heads of two classes'
    return [evidence.missing('C2', reason), evidence.missing('C10', reason)]
  # Rivals have as many checkpoints as the wrLLC.
  places = np.searchsorted(heads.steps, heads.measured)
  baselines = {
    name: np.mean(
      _indices(heads, lambda names, x=name: heads.reading(x, names)[places].T)
    )
    for name in BASELINES
  }
  index = float(np.mean(by_wrllc))
  words = [f'{name} {value:.2f}' for name, value in baselines.items()]
  rivals = float(np.mean(list(baselines.values())))
  # An adjusted index is 0 by chance, so no null need be subtracted.
  return [
    evidence.Finding('C2', index, math.nan, heads.words),
    evidence.Finding('C10', index - rivals, math.nan, ', '.join(words)),
  ]


def _indices(heads: evidence.Heads, curves_of: Callable) -> list[float]:
  """Adjusted Rand index of clusters and classes, by layer with two classes."""
  indices = []
  for names in heads.layers.values():
    classes = [heads.classes[name] for name in names]
    if len(set(classes)) > 1:
      values = curves_of(names)
      # k-means needs as many distinct curves as clusters.
      count = min(len(set(classes)), len(np.unique(values, axis=0)))
      labels = curves.cluster_curves(values, count).labels
      indices.append(curves.agreement(labels, classes))
  return indices


def induction_is_simple(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C3: induction heads end below the multigram heads of their layer."""
  if not heads.induction or not heads.last_multigrams:
    return [evidence.missing('C3', heads.words)]
  multigrams, induction = heads.last_multigrams, heads.induction
  note = f'{", ".join(induction)} against {", ".join(multigrams)}'
  plus, minus = (heads.cells(x, heads.end) for x in (multigrams, induction))
  return [evidence.contrast('C3', plus, minus, note)]


def memory_is_complexity(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C4: wrLLC of multigram heads grows with what they memorized.

  Within layers: heads of different layers differ for other reasons.
  """
  counts_of = _memorized(heads)
  correlations, words = [], []
  for layer in range(len(heads.layers)):
    names = heads.having(head_types.MULTIGRAM, layer)
    counts = np.array([counts_of[name] for name in names])
    value = _correlation(heads.cells(names, heads.end).values, counts)
    if len(names) >= 4 and math.isfinite(value):
      correlations.append(value)
      words.append(f'{value:.2f} of {len(names)}')
  if not correlations:
    return [evidence.missing('C4', 'no layer with four multigram heads')]
  effect = float(np.mean(correlations))
  return [evidence.Finding('C4', effect, math.nan, ', '.join(words))]


def _memorized(heads: evidence.Heads) -> dict[str, float]:
  """Multigrams that each head has memorized: true ones where they are known."""
  last = heads.evidence.readings.isel(checkpoint=-1)
  if 'true_words' in last:
    counts = last.true_words + last.true_pairs
  else:
    counts = last.num_ngrams + last.num_skip_ngrams - last.null_multigrams
  values = counts.transpose('layer', 'head').values
  return {name: float(values[naming.place(name)]) for name in heads.names}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Spearman correlation; NaN if an input is constant, or too short."""
  if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
    return math.nan
  return float(stats.spearmanr(a, b).statistic)


def inductive_data(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C5a and C5b: where induction helps, its heads rise and part."""
  rest = [name for name in heads.last_layer if name not in heads.induction]
  if not heads.induction or not rest:
    reason = heads.words
    return [evidence.missing('C5a', reason), evidence.missing('C5b', reason)]
  other = heads.evidence.inductive
  findings = [_rise_above(heads, rest, other)]
  if len(heads.induction) < 2:
    return [*findings, evidence.missing('C5b', 'one induction head')]
  scores = heads.reading('prefix_matching_text', heads.induction)[-1]
  pair = [heads.induction[i] for i in np.argsort(-scores)[:2]]
  there, here = (heads.cells(pair, heads.end, x) for x in (other, heads.text))
  effect = abs(np.diff(there.values)) - abs(np.diff(here.values))
  error = 2 * math.sqrt(there.variance + here.variance)
  note = f'{pair[0]} and {pair[1]}'
  return [*findings, evidence.Finding('C5b', effect.item(), error, note)]


def _rise_above(heads, rest, other) -> evidence.Finding:
  """The rise of induction heads on other data less that of the rest."""
  effect, variance = 0.0, 0.0
  for names, sign in ((heads.induction, 1), (rest, -1)):
    there, here = (
      heads.cells(names, heads.end, x) for x in (other, heads.text)
    )
    effect += sign * (there.mean - here.mean)
    variance += there.variance + here.variance
  note = f'{", ".join(heads.induction)} on {other}'
  return evidence.Finding('C5a', effect, math.sqrt(variance), note)


def migration(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C6a and C6b: multigram heads move from first to last layer."""
  findings = []
  for claim, names, sign in (
    ('C6a', heads.first_multigrams, -1),
    ('C6b', heads.last_multigrams, 1),
  ):
    reference = heads.evidence.reference
    if reference is None:
      findings.append(evidence.missing(claim, 'no one-layer model'))
      continue
    if heads.onset is None or not names:
      findings.append(evidence.missing(claim, heads.words))
      continue
    steps = heads.end, heads.measured_by(heads.onset)
    plus, minus = (
      heads.cells(names, step, estimates=reference) for step in steps[::sign]
    )
    note = f'{", ".join(names)} from step {steps[1]}'
    findings.append(evidence.contrast(claim, plus, minus, note))
  return findings


def composition(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claims C7a and C7b: heads of the two circuits come to compose.

  From its minimum to the end a score can only rise, so the rise of the other
  pairs of heads is subtracted.
  """
  if 'composition_K' not in heads.evidence.readings:
    return [evidence.missing(claim, 'one layer') for claim in ('C7a', 'C7b')]
  scores = heads.evidence.readings.composition_K
  scores = scores.transpose('checkpoint', 'writer', 'reader').values
  rises = scores[-1] - scores.min(axis=0)
  return [
    _of_pairs('C7a', rises, heads.first_multigrams, heads.last_multigrams),
    _of_pairs('C7b', rises, heads.having('previous-token', 0), heads.induction),
  ]


def _of_pairs(
  claim: str, rises: np.ndarray, writers: Sequence[str], readers: Sequence[str]
) -> evidence.Finding:
  """Mean over the pairs of a circuit less the mean over all others."""
  index = lambda names: [naming.place(name)[1] for name in names]
  inside = np.zeros(rises.shape, bool)
  inside[np.ix_(index(writers), index(readers))] = True
  note = f'{inside.sum()} of {inside.size} pairs'
  if not inside.any() or inside.all():
    return evidence.missing(claim, note)
  effect = rises[inside].mean() - rises[~inside].mean()
  return evidence.Finding(claim, float(effect), math.nan, note)


def nested_brackets(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C8: closing nested brackets comes to need the multigram circuit."""
  readings = heads.evidence.readings
  if 'joint_nested' not in readings:
    return [evidence.missing('C8', 'one layer')]
  if heads.onset is None or not heads.first_multigrams:
    return [evidence.missing('C8', heads.words)]
  rises = readings.joint_nested.sel(checkpoint=[heads.onset, heads.end])
  change = rises.transpose('checkpoint', 'minibatch').diff('checkpoint').values
  change = change[np.isfinite(change)]
  if len(change) < 2:
    return [evidence.missing('C8', 'no closing of nested brackets in the text')]
  error = float(change.std(ddof=1)) / math.sqrt(len(change))
  control = float(
    readings.joint_nested_control.sel(checkpoint=heads.end).mean()
  )
  note = (
    f'{len(heads.first_multigrams)} heads cut, from step {heads.onset}; all '
    f'others {control:.3f} nats at the end'
  )
  return [evidence.Finding('C8', float(change.mean()), error, note)]


def order_is_stable(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C9: the order of heads of a layer is stable to the settings."""
  least, words = [], []
  for names in heads.layers.values():
    if len(names) < 5:
      continue
    final = heads.cells(names, heads.end).values
    places = [heads.names.index(name) for name in names]
    correlations = [
      _correlation(final, swept[places]) for swept in heads.evidence.swept
    ]
    least.append(float(np.min(correlations)))  # NaN stays NaN.
    words.append(f'{least[-1]:.2f}')
  if not least:
    return [evidence.missing('C9', 'no layer of five heads')]
  limit = _LARGEST_CORRELATION
  scale = lambda r: math.atanh(float(np.clip(r, -limit, limit)))
  effect = np.mean([scale(r) for r in least]) - scale(NULL_CORRELATION)
  note = f'least correlations by layer {", ".join(words)}'
  return [evidence.Finding('C9', float(effect), math.nan, note)]


def known_answers(heads: evidence.Heads) -> list[evidence.Finding]:
  """Claim C11: the estimator meets every known answer."""
  met = heads.evidence.known_answers
  share = sum(met) / len(met) if met else math.nan
  note = f'{sum(met)} of {len(met)}'
  # Half of the answers met would be no estimator at all: 1 is all, -1 none.
  return [evidence.Finding('C11', 2 * share - 1, math.nan, note)]
