"""Settings of a run: those of its chains, and its layout.

Each is checked once, when it is made, and then travels whole.
"""

import dataclasses
from typing import Any
import warnings

import jax

from rllc_jax import types
from rllc_jax import whole_numbers
from rllc_jax.estimators import compilation
from rllc_jax.estimators import errors
from rllc_jax.estimators import grid
from rllc_jax.estimators import stops
from rllc_jax.samplers import by_name

_DEFAULT_DRAWS = 200
_LENGTHS = ('num_chains', 'num_draws', 'target_error', 'max_draws')
# More is a slip of the keyboard, or would repeat random numbers.
_LIMITS = (
  ('num_chains', 2**20, 'each of them is kept'),
  ('num_draws and burn_in', 2**24, 'every draw is kept'),
  (
    'num_draws and burn_in, in steps,',
    2**32 - 1,
    'steps address random numbers',
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Settings of the chains of a run: posterior, kernel and lengths.

  All of it makes the numbers what they are; see `Layout` for what does not.

  Attributes:
    nbeta: n beta, samples times inverse temperature.
    localization: gamma, in 1 / weight^2.
    step_size: epsilon, in weight^2.
    num_chains: C, chains a refinement.
    num_draws: draws after the burn-in, 24 at least; 200 by default. None, or 0,
      with a target.
    target_error: instead, the standard error that every cell shall have: in
      units of the estimate, or `relative(0.03)`; see `estimators.stops`. Cells
      that would need more than `max_draws` end there. None, or '', for none.
    max_draws: the most draws after the burn-in that a target may take.
    burn_in: steps before them, recorded too;
      10 / (step_size localization) by default.
    num_steps_between_draws: steps from one recorded step to the next.
    sampler: a kernel, or its text with arguments: 'leimkuhler_matthews',
      'sghmc(friction=0.5)'.
    share_batches: whether refinements and chains see the same minibatches.
    num_baseline_batches: minibatches for the corpus baseline of a trajectory;
      0 for none.
    matmul_precision: what matrix products round to, 'float32',
      'tensorfloat32' or 'bfloat16'; sums are float32. On a CPU only the first.

  Raises:
    ValueError: if a setting is out of range, saying which and why.
  """

  nbeta: float
  localization: float
  step_size: float
  num_chains: int = 4
  num_draws: int | None = None
  target_error: stops.Target | float | str | None = None
  max_draws: int = 4096
  burn_in: int | None = None
  num_steps_between_draws: int = 1
  sampler: types.Sampler | str = 'leimkuhler_matthews'
  share_batches: bool = True
  num_baseline_batches: int = 64
  matmul_precision: str = 'float32'

  def __post_init__(self):
    kinds = {field.name: field.type for field in dataclasses.fields(self)}
    for name, kind in kinds.items():
      if kind in (float, bool):
        self._set(name, kind(getattr(self, name)))
      elif kind is int:
        self._set(name, whole_numbers.whole_number(name, getattr(self, name)))
    if isinstance(self.sampler, str):
      self._set('sampler', by_name.sampler(self.sampler))
    if not isinstance(self.sampler, types.Sampler):
      raise ValueError(
        'sampler must be a types.Sampler, such as sgld(), or its text, such as '
        f"'sgld'; got {self.sampler!r}."
      )
    _check_posterior(self.nbeta, self.localization)
    _check_positive('step_size', self.step_size, 'noise has this variance')
    _check_stable(self.step_size, self.localization)
    reason = 'there must be something to sample'
    _check_positive('num_chains', self.num_chains, reason)
    spacing = self.num_steps_between_draws
    _check_positive('num_steps_between_draws', spacing, 'draws are steps apart')
    self._check_lengths()
    compilation.check_name_of_precision(self.matmul_precision)
    self._check_counts()

  def _set(self, name: str, value: Any) -> None:
    object.__setattr__(self, name, value)  # Frozen for everybody else.

  def _check_lengths(self) -> None:
    """Raises unless there is one of a number of draws and a target error."""
    if self.target_error in (None, ''):
      self._set('target_error', None)
      draws = _DEFAULT_DRAWS if self.num_draws is None else self.num_draws
      self._set('num_draws', whole_numbers.whole_number('num_draws', draws))
      errors.check_num_draws(draws)
      return
    if self.num_draws:
      raise ValueError(
        'num_draws must be None, or 0, with a target_error, because a pilot '
        f'fixes it; got {self.num_draws} and {self.target_error}. The most '
        "that a target may take is max_draws; target_error '' is none."
      )
    self._set('num_draws', None)
    self._set('target_error', stops.target(self.target_error))
    errors.check_num_draws(self.max_draws)
    if not self.nbeta:
      raise ValueError(
        'nbeta must be positive with a target_error, because the error is '
        'that of nbeta times a loss; got 0.'
      )

  def _check_counts(self) -> None:
    """Raises for a burn-in that is none, and for more than anybody means."""
    if self.burn_in is not None:
      burn_in = whole_numbers.whole_number(
        'burn_in', self.burn_in, 'it counts steps'
      )
      if burn_in < 0:
        raise ValueError(
          f'burn_in must be at least 0, because it counts steps; got {burn_in}.'
        )
      self._set('burn_in', burn_in)
    draws = self.num_recorded
    counts = self.num_chains, draws, draws * self.num_steps_between_draws
    for (name, most, reason), count in zip(_LIMITS, counts, strict=True):
      if count > most:
        raise ValueError(
          f'{name} must be at most {most:,}, because {reason}; got {count:,}.'
        )

  @property
  def posterior(self) -> types.Posterior:
    r""":math:`n\beta` and :math:`\gamma`."""
    return types.Posterior(self.nbeta, self.localization)

  @property
  def kernel(self) -> types.Sampler:
    """The sampler, which may have been given as text."""
    assert isinstance(self.sampler, types.Sampler)
    return self.sampler

  @property
  def burn_in_draws(self) -> int:
    """Draws that a reader leaves out."""
    steps = self.burn_in
    if steps is None:
      steps = errors.default_burn_in(self.step_size, self.localization)
    return -(-steps // self.num_steps_between_draws)

  @property
  def num_recorded(self) -> int:
    """D, draws of a chain, the burn-in included; with a target, the most."""
    draws = self.max_draws if self.num_draws is None else self.num_draws
    return self.burn_in_draws + draws

  @property
  def stop_rule(self) -> stops.Rule | None:
    """The rule that fixes the draws of a cell, if there is a target."""
    if self.target_error is None:
      return None
    return stops.Rule(
      stops.target(self.target_error),
      self.burn_in_draws,
      self.max_draws,
      self.nbeta,
      self.localization,
      self.step_size,
    )

  def identity(self) -> dict[str, Any]:
    """Settings that change numbers, JSON; not how many there are."""
    values = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in _LENGTHS
    }
    burn_in = self.burn_in_draws * self.num_steps_between_draws
    return values | {'sampler': self.kernel.name, 'burn_in': burn_in}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """Devices and pieces of a run. Changes no number.

  Attributes:
    mesh: see `grid.make_mesh`; all local devices by default.
    chunk_size: columns of a device in parallel; from its memory by default,
      and less, with a warning, if that runs out.
    rows_per_block: rows a call; one a device row of the mesh by default.
    segment: draws a call; by default what takes about ten seconds.
  """

  mesh: jax.sharding.Mesh | None = None
  chunk_size: int | None = None
  rows_per_block: int | None = None
  segment: int | None = None

  def __post_init__(self):
    for name in ('chunk_size', 'rows_per_block', 'segment'):
      value = getattr(self, name)
      if value is not None:
        value = whole_numbers.whole_number(name, value)
        _check_positive(name, value, 'it counts what is done at once')
        object.__setattr__(self, name, value)

  def on_mesh(self, num_rows: int) -> tuple[jax.sharding.Mesh, int]:
    """The mesh and the rows a block of a run with so many rows.

    Raises:
      ValueError: if a block cannot be dealt evenly to the mesh.
    """
    mesh = self.mesh or grid.default_mesh(num_rows)
    rows_per_block = self.rows_per_block or mesh.shape['row']
    grid.check_rows_per_block(rows_per_block, mesh)
    return mesh, rows_per_block


def _check_posterior(nbeta: float, localization: float) -> None:
  if not nbeta >= 0:
    raise ValueError(
      'nbeta must be at least 0, because the posterior tempers exp(-nbeta '
      f'loss); got {nbeta}.'
    )
  if not localization >= 0:
    raise ValueError(
      'localization must be at least 0, because it is the precision of a '
      f'Gaussian; got {localization}.'
    )


def _check_stable(step_size: float, localization: float) -> None:
  if step_size * localization >= 4:
    raise ValueError(
      'step_size times localization must be under 4, because SGLD diverges '
      'along every direction from there on; got '
      f'{step_size} x {localization} = {step_size * localization:g}.'
    )


def _check_positive(name: str, value: float, reason: str) -> None:
  """Raises unless `value` > 0 (a NaN is not)."""
  if not value > 0:
    raise ValueError(f'{name} must be positive, because {reason}; got {value}.')


def warn_of_bias(sampler: types.Sampler) -> None:
  """Warns if a sampler's estimates miss the exact value at any step size."""
  if sampler.bias:
    warnings.warn(
      f'Estimates by {sampler.name} are biased: {sampler.bias}.', stacklevel=3
    )
