"""Clusters of heads' curves over training, and ends of stages.

Wang et al. (2410.02984) cluster the curves of a layer's heads without stating
the number of clusters or the distance. Here the distance is between the values
at the checkpoints, which are spaced in the logarithm of the step. The caller
gives the number: that of the classes to compare with.
"""

from typing import Any, NamedTuple
import warnings

import numpy as np
from numpy.typing import ArrayLike
from sklearn import cluster
from sklearn import gaussian_process
from sklearn import metrics
from sklearn.gaussian_process import kernels

from rllc_jax import whole_numbers

METHODS = ('euclidean', 'dtw', 'hierarchical', 'kshape')
NORMALISATIONS = ('none', 'minmax', 'standard')
_RESTARTS = 10
_GRID = 2_000  # Points of the fit between the first checkpoint and the last.
_DRAWS = 500  # Of curves from the fitted process, to see which turns are sure.
_DRAWN = 200  # Points of such a curve.
_SURE = 0.95  # Share of the draws that must turn where the fit does.
_APART = 3.5  # Errors by which estimates before and after a turn lie below it.


class Clusters(NamedTuple):
  """Labels of clusters, and their quality.

  Attributes:
    labels: [N], clusters numbered by their first curve.
    silhouette: mean over the curves, -1 to 1, in Euclidean distance; NaN if
      every curve is alone or all are together.
  """

  labels: np.ndarray
  silhouette: float


def normalised(curves: np.ndarray, how: str) -> np.ndarray:
  """Curves [N, K] unchanged, from 0 to 1, or of mean 0 and deviation 1.

  Raises:
    ValueError: if there is no such normalisation, a value is not finite, or a
      curve is constant and could not be scaled.
  """
  curves = np.asarray(curves, float)
  if how not in NORMALISATIONS:
    raise ValueError(
      f'A normalisation must be one of {", ".join(NORMALISATIONS)}; got '
      f'{how!r}.'
    )
  if curves.ndim != 2 or not np.isfinite(curves).all():
    raise ValueError(
      'Curves must be finite numbers [N, K], or they have no distance; got '
      f'shape {list(curves.shape)} with {np.sum(~np.isfinite(curves))} others.'
    )
  if not curves.size:
    raise ValueError(
      'Curves must be at least one curve of at least one value, or there is '
      f'nothing to compare; got shape {list(curves.shape)}.'
    )
  if how == 'none':
    return curves
  low, high = curves.min(axis=1), curves.max(axis=1)
  if (flat := np.flatnonzero(low == high)).size:
    raise ValueError(
      'A curve must change, to be scaled by how much it does; got '
      f'{flat.size} of {len(curves)} that are constant.'
    )
  if how == 'minmax':
    return (curves - low[:, None]) / (high - low)[:, None]
  deviation = curves.std(axis=1, keepdims=True)
  return (curves - curves.mean(axis=1, keepdims=True)) / deviation


def cluster_curves(
  curves: np.ndarray,
  num_clusters: int,
  *,
  method: str = 'euclidean',
  normalisation: str = 'none',
  seed: int = 0,
) -> Clusters:
  """Clusters similar curves.

  Args:
    curves: [N, K], a value a checkpoint.
    num_clusters: how many groups; 1 puts all curves together.
    method: 'euclidean', k-means of the values; 'dtw', k-means under dynamic
      time warping; 'hierarchical', Ward's agglomeration; 'kshape', k-means of
      shapes by their cross-correlation, whatever the levels, sizes and shifts.
    normalisation: of each curve by itself, see `normalised`.
    seed: of the first centers of k-means, ten times drawn.

  Raises:
    ValueError: there is no such method or normalisation, or the curves do not
      make so many groups.

  Examples:
    >>> curves = np.array([[0, 1.0], [5, 5.0], [0, 1.1], [5, 5.2]])
    >>> print(cluster_curves(curves, 2).labels)
    [0 1 0 1]
  """
  if method not in METHODS:
    raise ValueError(
      f'A method must be one of {", ".join(METHODS)}; got {method!r}.'
    )
  count = whole_numbers.whole_number('num_clusters', num_clusters)
  if count < 1:
    raise ValueError(
      'num_clusters must be at least 1, because every curve is in a group; got '
      f'{count}.'
    )
  values = normalised(curves, normalisation)
  distinct = len(np.unique(values, axis=0))
  if count > distinct:
    raise ValueError(
      f'{count} clusters need as many different curves; got {distinct} of '
      f'{len(values)}. Ask for fewer.'
    )
  labels = _in_order(_labels(values, count, method, seed))
  score = np.nan
  if 1 < len(set(labels)) < len(labels):
    score = float(metrics.silhouette_score(values, labels))
  return Clusters(labels, score)


def _labels(values, num_clusters, method, seed):
  if num_clusters == 1:  # Agglomeration refuses a single curve.
    return np.zeros(len(values), int)
  if method == 'hierarchical':
    model: Any = cluster.AgglomerativeClustering(num_clusters)
  elif method == 'euclidean':
    model = cluster.KMeans(num_clusters, n_init=_RESTARTS, random_state=seed)
  else:
    if method == 'kshape':  # It takes curves of mean 0 and deviation 1.
      values = normalised(values, 'standard')
    model = _of_series(method, num_clusters, seed)
    values = values[..., None]
  return np.asarray(model.fit_predict(values))


def _of_series(method, num_clusters, seed):
  """K-means under dynamic time warping, or of shapes, from tslearn."""
  with warnings.catch_warnings():
    # Imported here: it takes seconds, and warns about its extras.
    warnings.simplefilter('ignore')
    from tslearn import clustering  # pyrefly: ignore[missing-import]
  options = {'n_init': _RESTARTS, 'random_state': seed}
  if method == 'kshape':
    return clustering.KShape(num_clusters, **options)
  return clustering.TimeSeriesKMeans(num_clusters, metric='dtw', **options)


def _in_order(labels: np.ndarray) -> np.ndarray:
  """Renumbers groups in the order of their first appearance."""
  numbers: dict[int, int] = {}
  return np.array([numbers.setdefault(x, len(numbers)) for x in labels])


def agreement(labels: ArrayLike, classes: ArrayLike) -> float:
  """The adjusted Rand index of two groupings: 1 if equal, 0 as by chance.

  Examples:
    >>> agreement([0, 0, 1, 1], ['a', 'a', 'b', 'b'])
    1.0
  """
  return float(metrics.adjusted_rand_score(classes, labels))


class Stages(NamedTuple):
  """A smooth curve through estimates, and where it turns.

  Attributes:
    steps: [2000], training steps, evenly spaced in log(step + 1).
    fit: [2000], the mean of the Gaussian process there.
    error: [2000], its standard deviation.
    boundaries: steps at which the fit surely turns: ends of stages.
    rises_to: for each of them, whether the curve rose before it.
    boundary_low: for each, the lower end of its 95 % interval, in steps.
    boundary_high: the upper end.
  """

  steps: np.ndarray
  fit: np.ndarray
  error: np.ndarray
  boundaries: np.ndarray
  rises_to: np.ndarray
  boundary_low: np.ndarray
  boundary_high: np.ndarray


def stages(steps: np.ndarray, llcs: np.ndarray, errors: np.ndarray) -> Stages:
  """Finds developmental stages, which end at plateaus of an LLC curve.

  A Gaussian process (constant times RBF, in log(step + 1)) is fitted to the
  estimates with their own errors, and the zeros of its derivative are taken, as
  in Hoogland et al. (2402.02364), who fit without errors.

  Of these turns only those count that the errors let stand: 95 % of 500 curves
  drawn from the fitted process must have a turn of the same kind, from rise to
  fall or back, within the length over which the fit varies. Its interval holds
  the middle 95 % of theirs. And one estimate near it must lie beyond one before
  and one after it by 3.5 errors, because the fit overshoots after a steep
  rise.

  Args:
    steps: [K], of the checkpoints, at least 0 and ascending.
    llcs: [K], the estimates; those that are not finite are passed over.
    errors: [K], their standard errors, at least 0.

  Raises:
    ValueError: if steps do not ascend, arrays are not of one length, an error
      is negative, or there are fewer than 5 finite estimates.
  """
  steps, llcs, errors = (np.asarray(x, float) for x in (steps, llcs, errors))
  _check_estimates(steps, llcs, errors)
  is_finite = np.isfinite(llcs) & np.isfinite(errors)
  if is_finite.sum() < 5:
    raise ValueError(
      'Stages need estimates at 5 checkpoints or more, or no curve can be '
      f'fitted; got {is_finite.sum()}.'
    )
  times = np.log1p(steps[is_finite])
  # The prior's scales are for values of mean 0 and deviation 1.
  center, scale = llcs[is_finite].mean(), llcs[is_finite].std() or 1.0
  span = times[-1] - times[0]
  kernel = kernels.ConstantKernel(1.0, (1e-2, 1e3)) * kernels.RBF(
    span / 5, (span / 50, 2 * span)
  )
  process = gaussian_process.GaussianProcessRegressor(
    kernel,
    # The constant keeps the matrix positive definite at errors of 0.
    alpha=(errors[is_finite] / scale) ** 2 + 1e-8,
    n_restarts_optimizer=5,
    random_state=0,
  )
  with warnings.catch_warnings():
    # The fit warns if the length scale reaches a bound: a curve without
    # structure.
    warnings.simplefilter('ignore')
    process.fit(times[:, None], (llcs[is_finite] - center) / scale)
  grid = np.linspace(times[0], times[-1], _GRID)
  prediction: Any = process.predict(grid[:, None], return_std=True)
  fit, error = center + scale * prediction[0], scale * prediction[1]
  turns, rises_to = _turns(fit)
  draws = _drawn_turns(process, times)
  fitted: Any = process.kernel_
  near = fitted.k2.length_scale
  lows, highs = _intervals(grid[turns], rises_to, draws, near)
  estimates = times, llcs[is_finite], errors[is_finite]
  is_sure = np.isfinite(lows) & _in_estimates(grid[turns], rises_to, *estimates)
  return Stages(
    np.expm1(grid),
    fit,
    error,
    np.expm1(grid[turns[is_sure]]),
    rises_to[is_sure],
    np.expm1(lows[is_sure]),
    np.expm1(highs[is_sure]),
  )


def _turns(curve):
  """Where a curve's slope changes its sign, and whether it rose before."""
  slopes = np.sign(np.diff(curve))
  turns = np.flatnonzero(slopes[:-1] * slopes[1:] < 0) + 1
  return turns, slopes[turns - 1] > 0


def _drawn_turns(process, times):
  """Times of turns of curves drawn from a fitted process, falls and rises."""
  grid = np.linspace(times[0], times[-1], _DRAWN)
  mean, covariance = process.predict(grid[:, None], return_cov=True)
  values, vectors = np.linalg.eigh(covariance)
  # Rounding makes the least values noise, which would turn at every point.
  values = np.where(values > 1e-10 * values.max(), values, 0)
  normal = np.random.default_rng(0).normal(size=(_DRAWS, _DRAWN))
  curves = mean + normal * np.sqrt(values) @ vectors.T
  turns = []
  for curve in curves:
    places, rises_to = _turns(curve)
    turns.append((grid[places[~rises_to]], grid[places[rises_to]]))
  return turns


def _intervals(times, rises_to, draws, near):
  """Ends of the interval of each turn, [n] each; NaN of one that is unsure."""
  ends = np.full((2, len(times)), np.nan)
  for i, (time, rises) in enumerate(zip(times, rises_to, strict=True)):
    nearest = np.array(
      [x[np.argmin(np.abs(x - time))] for y in draws if len(x := y[int(rises)])]
    )
    nearest = nearest[np.abs(nearest - time) <= near]
    if len(nearest) >= _SURE * len(draws):
      ends[:, i] = np.quantile(nearest, [0.025, 0.975])
  return ends


def _in_estimates(turns, rises_to, times, llcs, errors):
  """True for turns that the estimates have, too, whatever the fit."""
  # Up to the checkpoint beyond the next turn on either side.
  ends = np.concatenate([[times[0]], turns, [times[-1]]])
  first = np.searchsorted(times, ends[:-2], 'right') - 1
  last = np.searchsorted(times, ends[2:], 'left') + 1
  has_turn = np.zeros(len(turns), bool)
  for i, (low, high) in enumerate(zip(first, last, strict=True)):
    values, spreads = llcs[low:high], errors[low:high]
    differences = values[:, None] - values[None]
    differences *= 1 if rises_to[i] else -1
    beyond = differences > _APART * np.hypot(spreads[:, None], spreads[None])
    before, after = np.tril(beyond, -1), np.triu(beyond, 1)
    has_turn[i] = (before.any(axis=1) & after.any(axis=1)).any()
  return has_turn


def _check_estimates(
  steps: np.ndarray, llcs: np.ndarray, errors: np.ndarray
) -> None:
  shapes = [list(x.shape) for x in (steps, llcs, errors)]
  if steps.ndim != 1 or shapes != [shapes[0]] * 3:
    raise ValueError(
      'steps, llcs and errors must be lists of one length, because each '
      f'checkpoint has one of each; got {", ".join(map(str, shapes))}.'
    )
  bad = steps[~(np.isfinite(steps) & (steps >= 0))]
  if bad.size:
    raise ValueError(
      'steps must be finite and at least 0, because time is log(step + 1); got '
      f'{bad[0]:g}.'
    )
  if (not_ascending := np.flatnonzero(np.diff(steps) <= 0)).size:
    before, after = steps[not_ascending[0]], steps[not_ascending[0] + 1]
    raise ValueError(
      'steps must ascend, because a curve has one value at a time; got '
      f'{after:g} after {before:g}. Sort them, and keep one estimate of each.'
    )
  if (negative := errors[errors < 0]).size:
    raise ValueError(
      'errors must be at least 0, because they are standard errors; got '
      f'{negative[0]:g}.'
    )
