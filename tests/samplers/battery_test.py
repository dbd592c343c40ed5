"""Known answers for every sampler; a new one is a new row of SAMPLERS.

One program a row runs all problems, at two settings: a problem is the index of
a refinement, so a row is compiled once.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rllc_jax import types
from rllc_jax.samplers import leimkuhler_matthews
from rllc_jax.samplers import mala
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import sghmc
from rllc_jax.samplers import sgld
from rllc_jax.samplers import sgnht
from tests.estimators import toy

COMPILED = toy.compile_counter()

# --- Problems: a [4] and b [2] move; a minibatch is a shift z [6]. -----------
CURVATURES = np.geomspace(0.5, 2, 6).astype(np.float32)
NUM_DRAWS, BURN_IN = 4_000, 600
SHIFTS = np.random.default_rng(0).normal(size=(NUM_DRAWS + BURN_IN, 6))
SHIFTS = 0.05 * SHIFTS.astype(np.float32)


def _bowl(a, b, shift):
  u = jnp.concatenate([a, b])
  return jnp.sum(CURVATURES * u * (u / 2 - shift))


PROBLEMS = {
  'bowl': lambda a, b, z: _bowl(a, b, 0.0),
  'noisy_bowl': _bowl,
  'quartic': lambda a, b, z: jnp.sum(4 * a**4),
  'flat_direction': lambda a, b, z: jnp.sum(0.2 * a**2),
  'cusp': lambda a, b, z: jnp.sum(0.2 * a**2) + jnp.sum(4 * b**4),
  'coupled_leaves': lambda a, b, z: jnp.sum(0.1 * (a[:2] - b) ** 2),
}
# If l(s^c_i u_i) = s l(u) then E[nbeta l] = sum c_i at every nbeta.
SINGULAR = {
  'quartic': 4 / 4,
  'flat_direction': 4 / 2,
  'cusp': 4 / 2 + 2 / 4,
  'coupled_leaves': 2 / 2,
}


def _loss(u, context, problem):
  """The loss of a problem, which shows if a frozen weight has moved."""
  frozen, z = context
  values = [loss(u['a'], u['b'], z) for loss in PROBLEMS.values()]
  return jnp.stack(values)[problem] + 1e6 * jnp.sum((frozen - 1.0) ** 2)


MOVING = ('a', 'b')
FAMILY = types.Refinements(
  tuple(PROBLEMS),
  types.Lens(
    lambda params, index: {name: params[name] for name in MOVING},
    lambda position, params, index: {**params, **position},
  ),
  jnp.arange(len(PROBLEMS)),
  types.RefinedLoss(
    lambda params, z: ((params['frozen'], z), jnp.zeros([])), _loss
  ),
)
CENTER = {'a': jnp.zeros(4), 'b': jnp.zeros(2), 'frozen': jnp.ones(3)}


# --- Samplers. ---------------------------------------------------------------
G = np.array([0.25, 1.0, 0.5, 0.75, 0.5, 1.0], np.float32)
FIXED = preconditioners.fixed(
  'six scales', lambda u: {'a': jnp.asarray(G[:4]), 'b': jnp.asarray(G[4:])}
)
# A user's own function pair: one number a leaf, which settles on the way.
SETTLED = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.5])
SETTLES = preconditioners.Preconditioner(
  'settles',
  lambda position: jnp.int32(0),
  lambda steps, gradient: (
    steps + 1,
    {'a': jnp.where(steps < 100, 0.1, 1.0), 'b': jnp.where(steps < 50, 2, 0.5)},
  ),
)


class Row(NamedTuple):
  """A sampler and its exact moments in a bowl, with its bias.

  Attributes:
    sampler: the kernel.
    heat: E[a u^2] along directions of curvature a [d], as a function of a, the
      step size, and C [d], the variance of the minibatch gradient of U.
    full_batch: whether it is exact with full batches only, where C = 0.
    predicts: what its predicted bias is of: the loss, the potential as a whole
      (which has its own share of the heat with localization), or nothing.
  """

  sampler: types.Sampler
  heat: Callable[[np.ndarray, float, np.ndarray], np.ndarray]
  full_batch: bool = False
  predicts: Literal['loss', 'potential', 'nothing'] = 'loss'


def _sghmc(friction, G=1.0):
  return lambda a, eps, C: (
    (1 + eps * G * C / (4 * friction))
    / (1 - eps * G * a / (4 * (2 - friction)))
  )


def _leimkuhler_matthews(G=1.0):
  return lambda a, eps, C: 1 + eps * G * C / 4 / (1 - eps * G * a / 4)


def _sgnht(diffusion):
  """Heat of SGHMC with the friction at which |v|^2 / d is eps / 2."""

  def heat(a, eps, C):
    injected = diffusion * np.sqrt(eps / 2) + eps * C / 4

    def at(friction):
      return injected / friction / (1 - eps * a / (4 * (2 - friction)))

    excess = lambda friction: at(friction).mean() - (1 - friction / 2)
    return at(optimize.brentq(excess, injected.min() / 2, 1))

  return heat


_exact = lambda a, eps, C: np.ones_like(a)
SAMPLERS = {
  'leimkuhler_matthews': Row(
    leimkuhler_matthews.leimkuhler_matthews(), _leimkuhler_matthews()
  ),
  'leimkuhler_matthews_fixed': Row(
    leimkuhler_matthews.leimkuhler_matthews(FIXED), _leimkuhler_matthews(G)
  ),
  'sgld': Row(sgld.sgld(), _sghmc(1.0)),
  'sgld_fixed': Row(sgld.sgld(preconditioner=FIXED), _sghmc(1.0, G)),
  'sghmc': Row(sghmc.sghmc(0.3), _sghmc(0.3)),
  'sghmc_user': Row(sghmc.sghmc(0.6, SETTLES), _sghmc(0.6, SETTLED)),
  'sgnht': Row(sgnht.sgnht(), _sgnht(1.0), predicts='potential'),
  'mala_fixed': Row(mala.mala(FIXED), _exact, full_batch=True),
}


class Settings(NamedTuple):
  """The swept settings, traced by every sampler."""

  nbeta: float
  localization: float
  step_size: float


class Outcome(NamedTuple):
  """The fields of an `Estimate` that are compared, for one problem."""

  llc: float
  standard_error: float
  equilibrium_ratio: float
  step_bias: float


TEMPERED = Settings(100.0, 0.0, 1e-3)
LOCALIZED = Settings(80.0, 50.0, 5e-3)


def _draw(rng_key, step, data, window):
  """A fresh shift at every step, made beforehand."""
  del rng_key, window
  return data[step]


def estimate(row, settings):
  """{problem: an `Outcome` of 64 chains}."""
  shifts = 0 * SHIFTS if row.full_batch else SHIFTS
  results = toy.estimate(
    jax.random.key(0),
    FAMILY,
    CENTER,
    types.Minibatches(shifts, _draw),
    nbeta=settings.nbeta,
    localization=settings.localization,
    step_size=settings.step_size,
    num_chains=64,
    chunk_size=64 * len(PROBLEMS),
    num_draws=NUM_DRAWS,
    burn_in=BURN_IN,
    sampler=row.sampler,
  )
  columns = (getattr(results, name) for name in Outcome._fields)
  return dict(zip(PROBLEMS, map(Outcome, *columns), strict=True))


def bowl_value(row, settings, noisy):
  """E[nbeta l] = 1/2 sum nbeta h v, with the sampler's own variances v."""
  curvatures = CURVATURES.astype(float)
  a = settings.nbeta * curvatures + settings.localization
  C = np.zeros(6)
  if noisy and not row.full_batch:
    C = (settings.nbeta * curvatures) ** 2 * SHIFTS.var(axis=0)
  heat = row.heat(a, settings.step_size, C)
  return 0.5 * np.sum(settings.nbeta * curvatures / a * heat)


def check_step_bias(row, settings, results):
  """Compares the predicted bias in bowls with the exact one."""
  bowl, noisy = (results[name].step_bias for name in ('bowl', 'noisy_bowl'))
  if row.predicts == 'nothing':
    assert np.isnan([bowl, noisy]).all()
    return
  exact = row._replace(heat=_exact)
  expected, with_noise = (
    bowl_value(row, settings, noisy) - bowl_value(exact, settings, noisy)
    for noisy in (False, True)
  )
  value = bowl_value(row, settings, noisy=False)
  is_whole = row.predicts == 'potential' and settings.localization > 0
  # Monte Carlo error was at most 0.05 % of the value. The thermostat makes the
  # mean heat right, not that of each direction: 0.5 % of the value.
  np.testing.assert_allclose(
    bowl, expected, rtol=0.02, atol=(1e-2 if is_whole else 1e-3) * value
  )
  if not is_whole:
    # With localization the loss does not see all of the noise's heat. That
    # share is known from one noise vector of six weights: to 17 %.
    error = 0.2 if settings.localization else 0.05
    tolerance = error * abs(with_noise - expected) + 2e-3 * value
    np.testing.assert_allclose(noisy, with_noise, rtol=0, atol=tolerance)


@pytest.mark.filterwarnings('ignore:Estimates by sgnht')
class SamplerTest(parameterized.TestCase):
  # Names in the tests' ids, so that -k selects a row.
  @parameterized.named_parameters((f'_{name}', name) for name in SAMPLERS)
  def test_known_answers(self, name):
    """Exact values, the step size's bias in them, from one compiled program.

    In a bowl only Monte Carlo error is left. That the error is small keeps the
    test sharp: a chain that mixes badly fails there. Were a weight moved that
    is none of the refinement's, the loss would be a million.
    """
    row = SAMPLERS[name]
    compiled = COMPILED['jit(run)']
    for settings in (TEMPERED, LOCALIZED):
      results = estimate(row, settings)
      for problem, outcome in results.items():
        llc, standard_error, ratio, _ = outcome
        with self.subTest(problem, settings=settings):
          self.assertLess(standard_error, 0.025 * llc)
          if 'bowl' in problem:
            expected = bowl_value(row, settings, problem == 'noisy_bowl')
            self.assertLess(abs(llc - expected), 4 * standard_error)
          elif settings is TEMPERED:
            # The step size's bias is under 3 %: eps / 4 times the curvatures
            # visited, up to 120 in a quartic.
            error = abs(llc - SINGULAR[problem])
            expected = SINGULAR[problem]
            self.assertLess(error, 4 * standard_error + 0.03 * expected)
          if 'bowl' in problem or settings is LOCALIZED:
            # Flat directions have no stationary law without localization. The
            # spread of this number over rows and problems is 0.3 %.
            self.assertAlmostEqual(float(ratio), 1, delta=0.015)
      with self.subTest('step_bias', settings=settings):
        check_step_bias(row, settings, results)
    with self.subTest('one compile'):
      self.assertEqual(COMPILED['jit(run)'], compiled + 1)


if __name__ == '__main__':
  absltest.main()
