r"""The claims of Wang et al. (2410.02984), each as a number with its error.

One training run is one piece of evidence. A statistic is made so that it is
positive where the claim is true, and 0 where there is nothing to it. The choice
of statistics, nulls and thresholds was made before any of them was run. The
classes of heads (`head_types`) were not: they were settled on seeds 0 and 1 of
the planted language, whose findings are therefore no test of C2 to C8 and C10.

  C1   Heads start alike and grow apart. Standard deviation of wrLLC over the
       heads of a layer, mean over layers, at the end less at the end of LM1,
       which is where predictions are nearest to pairs of tokens (`bigram` is at
       its least). Error: those of the estimates, carried through. Null: 0.
  C2   Curves tell classes. Adjusted Rand index of Euclidean k-means of a
       layer's wrLLC curves, with as many clusters as classes, mean over layers
       with two classes or more. Null and error: mean and standard deviation
       under permutations of the classes.
  C3   Induction heads end lower: mean wrLLC of the multigram heads of the last
       layer less that of its induction heads, at the end. Null: 0.
  C4   Memory is complexity: Spearman correlation of final wrLLC and the number
       of memorized multigrams over multigram heads. Error: 1 / sqrt(n - 1).
  C5a  Code wants induction: (induction heads less the other heads of the last
       layer) on code less the same on text, at the end. Null: 0.
  C5b  Code parts induction heads: the distance of the two strongest ones on
       code less that on text, at the end. Null: 0.
  C6a  Multigrams leave the first layer: rLLC of its multigram heads against a
       one-layer model, at the onset of induction less at the end. Null: 0.
  C6b  and come to the second: at the end less at the onset, of those of the
       last layer. Null: 0.
  C7a  The multigram circuit forms: K-composition of first-layer multigram heads
       with last-layer ones, at the end less at the onset. Error: over pairs.
  C7b  So does the induction circuit: of previous-token and induction heads.
  C8   Nested brackets come to need it: rise of the loss of closing nested
       brackets with those paths cut, at the end less at the onset. Error: over
       minibatches.
  C9   Settings keep the order of heads: least Spearman correlation of final
       wrLLC with that at another step size, gamma or n beta. On Fisher's scale
       z, error 1.06 / sqrt(n - 3). Null: a correlation of 0.5.
  C10  Other measures tell classes less well: the index of C2 less the mean of
       that of Hessian trace, Fisher trace and ablation, error as there.
  C11  The estimator is right: 1 if every known answer is met, or -1. No error.

The onset of induction is the last checkpoint at which no induction head has
half its final score of prefix matching in text. Errors of estimates are those
of `llc.of_draws`. A statistic that needs heads or times that are not there is
NaN. A claim *holds* if its statistic is beyond two errors in every run, *does
not hold* if it is beyond two errors on the other side in every run, and else
*cannot be told*.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
from scipy import stats
import xarray as xr

from rllc_jax.analysis import curves
from rllc_jax.analysis import head_types
from rllc_jax.analysis import readings
from rllc_jax.estimators import llc
from rllc_jax.results import names as naming

_PERMUTATIONS = 2_000
_NULL_CORRELATION = 0.5
_LARGEST_CORRELATION = 0.999
BASELINES = ('hessian_trace', 'fisher_trace', 'ablation_resample')

STATEMENTS = {
  'C1': 'heads of a layer start alike and grow apart',
  'C2': 'wrLLC curves alone recover the classes of heads',
  'C3': 'induction heads end below the multigram heads of their layer',
  'C4': 'wrLLC of multigram heads grows with what they memorized',
  'C5a': 'on code, induction heads rise above the others',
  'C5b': 'on code, the two strongest induction heads part',
  'C6a': 'against a one-layer model, layer-0 multigram heads decline',
  'C6b': 'against a one-layer model, last-layer multigram heads rise',
  'C7a': 'multigram heads of two layers come to compose',
  'C7b': 'previous-token and induction heads come to compose',
  'C8': 'closing nested brackets comes to need the multigram circuit',
  'C9': 'the order of heads is stable to the settings',
  'C10': 'other measures recover the classes less well',
  'C11': 'the estimator meets every known answer',
}


class Evidence(NamedTuple):
  """What one training run gives; its first data set is 'text'.

  Attributes:
    draws: of every head, from `llc.by_draw`.
    reference: likewise, against the one-layer model.
    swept: [S, R], final estimates of all heads at S other settings.
    readings: what `experiments.analyze` measured.
    code: the data set that stands for code.
    known_answers: whether each is met.
  """

  draws: xr.DataArray
  reference: xr.DataArray
  swept: np.ndarray
  readings: xr.Dataset
  code: str
  known_answers: Sequence[bool]


class Finding(NamedTuple):
  """A statistic in one run.

  Attributes:
    claim: a key of `STATEMENTS`.
    effect: positive if the claim is true.
    error: its standard error; both NaN where it cannot be measured.
    unit: of both.
    note: what went in.
  """

  claim: str
  effect: float
  error: float
  unit: str
  note: str


def findings(evidence: Evidence) -> list[Finding]:
  """Every claim's statistic, in their order."""
  heads = _heads(evidence)
  found = {x.claim: x for claim in _CLAIMS for x in claim(heads)}
  return [found[claim] for claim in STATEMENTS]


def verdict(found: Sequence[Finding]) -> bool | None:
  """Whether a claim holds, from its statistic in each run; None if open.

  Examples:
    >>> found = [Finding('C3', x, 0.4, '', '') for x in (2.0, 1.0, 0.1)]
    >>> verdict(found[:2]), verdict(found)
    (True, None)
  """
  for sign in (1, -1):
    if found and all(sign * x.effect > 2 * x.error for x in found):
      return sign > 0
  return None


class _Heads(NamedTuple):
  """Evidence with its heads sorted into classes.

  Attributes:
    evidence: all of it.
    names: of the heads.
    text: the data set that the model is trained on.
    classes: of the heads by name.
    layers: names by layer.
    steps: [K], of the checkpoints.
  """

  evidence: Evidence
  names: list[str]
  text: str
  classes: dict[str, str]
  layers: dict[int, list[str]]
  steps: np.ndarray

  @property
  def end(self) -> int:
    """The last checkpoint."""
    return int(self.steps[-1])

  def having(self, kind: str, layer: int | None = None) -> list[str]:
    """Heads of a class, in one layer or all; -1 is the last."""
    layers = list(self.layers)
    own = self.names if layer is None else self.layers[layers[layer]]
    return [name for name in own if self.classes[name] == kind]

  @property
  def last_multigrams(self) -> list[str]:
    """Multigram heads of the last layer."""
    return self.having(head_types.MULTIGRAM, -1)

  @property
  def first_multigrams(self) -> list[str]:
    """Multigram heads of the first layer."""
    return self.having(head_types.MULTIGRAM, 0)

  @property
  def induction(self) -> list[str]:
    """Induction heads of the last layer."""
    return self.having('induction', -1)

  @property
  def onset(self) -> int | None:
    """The onset of induction, if there is any."""
    if not self.induction:
      return None
    scores = self.reading('prefix_matching_text', self.induction)
    reached = (scores >= scores[-1] / 2).any(axis=1)
    before = np.flatnonzero(~reached)
    return int(self.steps[before[-1]]) if len(before) else None

  def reading(self, name: str, heads: Sequence[str]) -> np.ndarray:
    """[K, n], a measure of heads at every checkpoint."""
    return readings.of_heads(self.evidence.readings[name], heads)

  def mean(self, draws, heads, step, dataset=None) -> xr.DataArray:
    """By draw, the mean rLLC of heads at a checkpoint."""
    cell = draws.sel(checkpoint=step, dataset=dataset or self.text)
    return cell.sel(refinement=list(heads)).mean('refinement')


def _heads(evidence: Evidence) -> _Heads:
  names = [str(name) for name in evidence.draws.refinement.values]
  return _Heads(
    evidence,
    names,
    str(evidence.draws.dataset.values[0]),
    head_types.of_readings(evidence.readings),
    naming.heads_by_layer(names),
    evidence.readings.checkpoint.values,
  )


def _of_draws(claim: str, draws: xr.DataArray, note: str) -> Finding:
  found = llc.of_draws(draws)
  values = float(found.llc), float(found.standard_error)
  return Finding(claim, *values, 'rLLC', note)


def _missing(claim: str, why: str) -> Finding:
  return Finding(claim, math.nan, math.nan, '', why)


def _growing_apart(heads: _Heads) -> list[Finding]:
  nearest = int(np.argmin(heads.evidence.readings.bigram.values))
  early = heads.steps[nearest]
  if early == heads.end:
    return [_missing('C1', 'predictions are nearest to pairs at the end')]
  effects, squares = [], []
  for names in heads.layers.values():
    if len(names) < 2:
      continue
    cells = heads.evidence.draws.sel(dataset=heads.text, refinement=names)
    found = llc.of_draws(cells.sel(checkpoint=[early, heads.end]))
    found = found.transpose('checkpoint', 'refinement')
    values = found.llc.values
    spreads = values.std(axis=1, ddof=1)
    centered = values - values.mean(axis=1, keepdims=True)
    slopes = centered / (spreads[:, None] * (len(names) - 1))
    effects.append(spreads[1] - spreads[0])
    squares.append(np.sum((slopes * found.standard_error.values) ** 2))
  error = math.sqrt(sum(squares)) / len(squares)
  note = f'from step {early} to {heads.end}'
  return [Finding('C1', float(np.mean(effects)), error, 'rLLC', note)]


def _curves_tell_classes(heads: _Heads) -> list[Finding]:
  estimates = heads.evidence.draws.sel(dataset=heads.text).mean('draw')
  own = lambda names: estimates.sel(refinement=names).values.T
  by_wrllc = _clustered(heads, own)
  if not by_wrllc:
    why = 'no layer has heads of two classes'
    return [_missing('C2', why), _missing('C10', why)]
  found, nulls = _index(by_wrllc), _null(by_wrllc)
  note = f'index {found:.2f}; {heads_text(heads.classes)}'
  first = Finding('C2', found - nulls.mean(), nulls.std(), '', note)
  others = [
    _clustered(heads, lambda names, x=name: heads.reading(x, names).T)
    for name in BASELINES
  ]
  indices = [_index(other) for other in others]
  null = nulls - np.mean([_null(other) for other in others], axis=0)
  effect = found - np.mean(indices) - null.mean()
  words = zip(BASELINES, indices, strict=True)
  note = ', '.join(f'{name} {index:.2f}' for name, index in words)
  return [first, Finding('C10', float(effect), float(null.std()), '', note)]


# Of a layer: the clusters of its curves, and the classes of its heads.
_Layers = list[tuple[np.ndarray, np.ndarray]]


def _clustered(heads: _Heads, curves_of: Callable) -> _Layers:
  """Layers with heads of two classes or more; `curves_of(names)` is [n, K]."""
  layers = []
  for names in heads.layers.values():
    classes = np.array([heads.classes[name] for name in names])
    if len(set(classes)) > 1:
      values = curves_of(names)
      count = min(len(set(classes)), len(np.unique(values, axis=0)))
      layers.append((curves.cluster_curves(values, count).labels, classes))
  return layers


def _index(layers: _Layers) -> float:
  """The adjusted Rand index, mean over layers."""
  return float(np.mean([curves.agreement(*layer) for layer in layers]))


def _null(layers: _Layers) -> np.ndarray:
  """The same under permutations of the classes; the same ones for all, [P].

  The index is (m - E[m]) / (max m - E[m]) of the number m of pairs that are
  together in both groupings; E[m] is that of permutations.
  """
  rng = np.random.default_rng(0)
  found = []
  for labels, classes in layers:
    a, b = (np.equal.outer(x, np.unique(x)) for x in (labels, classes))
    order = rng.permuted(np.tile(np.arange(len(b)), (_PERMUTATIONS, 1)), axis=1)
    met = np.einsum('na,pnb->pab', a.astype(int), b[order].astype(int))
    pairs = lambda counts: counts * (counts - 1) / 2
    together = pairs(met).sum(axis=(1, 2))
    first, second = (pairs(x.sum(axis=0)).sum() for x in (a, b))
    expected = first * second / pairs(len(b))
    most = (first + second) / 2
    scale = most - expected
    found.append((together - expected) / scale if scale else 0 * together)
  return np.mean(found, axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Spearman's; NaN if one of them is constant."""
  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return math.nan
  return float(stats.spearmanr(a, b).statistic)


def _induction_is_simple(heads: _Heads) -> list[Finding]:
  if not heads.induction or not heads.last_multigrams:
    return [_missing('C3', heads_text(heads.classes))]
  mean = lambda names: heads.mean(heads.evidence.draws, names, heads.end)
  difference = mean(heads.last_multigrams) - mean(heads.induction)
  note = (
    f'{", ".join(heads.induction)} against {", ".join(heads.last_multigrams)}'
  )
  return [_of_draws('C3', difference, note)]


def _memory_is_complexity(heads: _Heads) -> list[Finding]:
  names = heads.having(head_types.MULTIGRAM)
  if len(names) < 4:
    return [_missing('C4', f'multigram heads: {len(names)}')]
  cells = heads.evidence.draws.sel(dataset=heads.text, checkpoint=heads.end)
  final = cells.sel(refinement=names).mean('draw').values
  kinds = 'num_ngrams', 'num_skip_ngrams'
  counts = np.sum([heads.reading(kind, names)[-1] for kind in kinds], axis=0)
  effect = _correlation(final, counts)
  error = 1 / math.sqrt(len(names) - 1)
  return [Finding('C4', effect, error, '', f'{len(names)} heads')]


def _code(heads: _Heads) -> list[Finding]:
  last = heads.layers[max(heads.layers)]
  others = [name for name in last if name not in heads.induction]
  if not heads.induction or not others:
    why = heads_text(heads.classes)
    return [_missing('C5a', why), _missing('C5b', why)]
  draws, code = heads.evidence.draws, heads.evidence.code
  above = lambda dataset: (
    heads.mean(draws, heads.induction, heads.end, dataset)
    - heads.mean(draws, others, heads.end, dataset)
  )
  note = f'{", ".join(heads.induction)} on {code}'
  found = [_of_draws('C5a', above(code) - above(heads.text), note)]
  if len(heads.induction) < 2:
    return [*found, _missing('C5b', 'one induction head')]
  scores = heads.reading('prefix_matching_text', heads.induction)[-1]
  pair = [heads.induction[i] for i in np.argsort(-scores)[:2]]

  def apart(dataset):
    one, two = (heads.mean(draws, [x], heads.end, dataset) for x in pair)
    difference = one - two
    return difference * np.sign(float(difference.mean()))

  difference = apart(code) - apart(heads.text)
  return [*found, _of_draws('C5b', difference, f'{pair[0]} and {pair[1]}')]


def _migration(heads: _Heads) -> list[Finding]:
  found = []
  for claim, names, sign in (
    ('C6a', heads.first_multigrams, -1),
    ('C6b', heads.last_multigrams, 1),
  ):
    if heads.onset is None or not names:
      found.append(_missing(claim, heads_text(heads.classes)))
      continue
    mean = lambda step, own=names: heads.mean(
      heads.evidence.reference, own, step
    )
    change = sign * (mean(heads.end) - mean(heads.onset))
    note = f'{", ".join(names)} from step {heads.onset}'
    found.append(_of_draws(claim, change, note))
  return found


def _composition(heads: _Heads) -> list[Finding]:
  pairs = {
    'C7a': (heads.first_multigrams, heads.last_multigrams),
    'C7b': (heads.having('previous-token', 0), heads.induction),
  }
  found = []
  for claim, (writers, readers) in pairs.items():
    count = len(writers) * len(readers)
    if 'composition_K' not in heads.evidence.readings:
      found.append(_missing(claim, 'one layer'))
      continue
    if heads.onset is None or count < 2:
      found.append(_missing(claim, f'pairs: {count}'))
      continue
    scores = _of_pairs(heads, 'composition_K', writers, readers)
    change = (
      scores.sel(checkpoint=heads.end) - scores.sel(checkpoint=heads.onset)
    ).values.ravel()
    error = change.std(ddof=1) / math.sqrt(count)
    note = f'{count} pairs from step {heads.onset}'
    found.append(Finding(claim, float(change.mean()), float(error), '', note))
  return found


def _of_pairs(heads, name, writers, readers) -> xr.DataArray:
  index = lambda names: [int(head.split(':')[1]) for head in names]
  found = heads.evidence.readings[name]
  return found.isel(writer=index(writers), reader=index(readers))


def _nested_brackets(heads: _Heads) -> list[Finding]:
  writers, readers = heads.first_multigrams, heads.last_multigrams
  if 'path_nested' not in heads.evidence.readings:
    return [_missing('C8', 'one layer')]
  if heads.onset is None or not writers or not readers:
    return [_missing('C8', heads_text(heads.classes))]
  rise = _of_pairs(heads, 'path_nested', writers, readers)
  rise = rise.mean(('writer', 'reader'))
  change = (
    rise.sel(checkpoint=heads.end) - rise.sel(checkpoint=heads.onset)
  ).values
  change = change[np.isfinite(change)]
  if len(change) < 2:
    return [_missing('C8', 'no closing of nested brackets in the text')]
  error = change.std(ddof=1) / math.sqrt(len(change))
  note = f'{len(writers)} by {len(readers)} heads from step {heads.onset}'
  return [Finding('C8', float(change.mean()), float(error), 'nats', note)]


def _order_is_stable(heads: _Heads) -> list[Finding]:
  cells = heads.evidence.draws.sel(dataset=heads.text, checkpoint=heads.end)
  final, count = cells.mean('draw').values, len(heads.names)
  if count < 5:
    return [_missing('C9', f'{count} heads')]
  found = [_correlation(final, other) for other in heads.evidence.swept]
  least, most = float(np.min(found)), _LARGEST_CORRELATION  # NaN stays NaN.
  scale = lambda r: math.atanh(float(np.clip(r, -most, most)))
  effect = scale(least) - scale(_NULL_CORRELATION)
  error = 1.06 / math.sqrt(count - 3)
  note = f'least correlation {least:.3f} of {len(heads.evidence.swept)}'
  return [Finding('C9', effect, error, 'z', note)]


def _known_answers(heads: _Heads) -> list[Finding]:
  met = heads.evidence.known_answers
  note = f'{sum(met)} of {len(met)}'
  return [Finding('C11', 1.0 if met and all(met) else -1.0, 0.0, '', note)]


def heads_text(classes: Mapping[str, str]) -> str:
  """The heads of each class in words.

  Examples:
    >>> heads_text({'0:0': 'multigram', '1:0': 'induction', '1:1': 'multigram'})
    'multigram 0:0 1:1, induction 1:0'
  """
  found: dict[str, list[str]] = {}
  for name, kind in classes.items():
    found.setdefault(kind, []).append(name)
  return ', '.join(f'{kind} {" ".join(own)}' for kind, own in found.items())


_CLAIMS: tuple[Callable[[_Heads], list[Finding]], ...] = (
  _growing_apart,
  _curves_tell_classes,
  _induction_is_simple,
  _memory_is_complexity,
  _code,
  _migration,
  _composition,
  _nested_brackets,
  _order_is_stable,
  _known_answers,
)
