"""What is refused before it is sampled: lenses, losses, gradients, draws."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rllc_jax
from rllc_jax import losses
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import door
from rllc_jax.refinement import control_variates
from rllc_jax.refinement import weights
from rllc_jax.samplers import sgld
from tests.estimators import toy

SETTINGS = {'nbeta': 100.0, 'localization': 10.0, 'step_size': 1e-4}
SHORT = {'num_draws': 24, 'burn_in': 0, 'num_chains': 1}


def bowl(params, batch):
  return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def estimate(loss_fn, params, data=None, *, batch_size=1, **changes):
  return rllc_jax.estimate_llc(
    jax.random.key(0),
    loss_fn,
    params,
    jnp.zeros(1) if data is None else data,
    batch_size=batch_size,
    **{**SETTINGS, **SHORT, **changes},
  )


def family(loss, names, lens, indices):
  return types.Refinements(names, lens, indices, loss)


def check(families, params, data=None, posterior=None):
  batches = minibatches.uniform(jnp.zeros(1) if data is None else data, 1)
  door.check(
    families,
    door.Subject(
      params,
      minibatches.whole(batches.data),
      batches,
      posterior or types.Posterior(100.0, 10.0),
      sgld.sgld(),
    ),
  )


ROW = types.Lens(
  lambda params, i: params['w'][i],
  lambda u, params, i: {**params, 'w': params['w'].at[i].set(u)},
)


@pytest.mark.parametrize('place', [3, 7, -4])
def test_a_member_whose_index_is_outside_is_refused_by_name(place):
  """Reads are clamped and writes dropped: 0 ± 0, or another row's number."""
  rows = family(
    weights.refine(bowl, ROW), ('w0', 'w9'), ROW, jnp.array([0, place])
  )
  with pytest.raises(ValueError, match="lens of 'w9' must read what it writes"):
    check([rows], {'w': jnp.arange(3.0)})
  check([rows._replace(indices=jnp.array([0, 2]))], {'w': jnp.arange(3.0)})


@pytest.mark.parametrize(
  'insert',
  [
    lambda u, params, i: {**params, 'w': params['w'].at[0].set(u)},
    lambda u, params, i: {**params, 'w': params['w'].at[i].set(2 * u)},
    lambda u, params, i: {'w': params['w'].at[i].set(u), 'v': params['v'] + 1},
  ],
)
def test_both_laws_of_a_lens_hold_of_every_member(insert):
  lens = ROW._replace(insert=insert)
  rows = family(weights.refine(bowl, lens), ('a', 'b'), lens, jnp.arange(2))
  with pytest.raises(ValueError, match=r"lens of '[ab]'"):
    check([rows], {'w': jnp.arange(1.0, 4.0), 'v': jnp.ones(1)})


def test_halves_of_a_loss_that_disagree_are_refused_at_draw_0():
  """A center loss .02 off moves every estimate by nbeta times that."""
  lens = weights.all_weights()
  whole = weights.refine(bowl, lens)
  off = whole._replace(
    context=lambda params, batch: ((params, batch), bowl(params, batch) + 0.02)
  )
  run = lambda loss: toy.estimate(
    jax.random.key(0),
    family(loss, ('all',), lens, jnp.zeros(1)),
    jnp.ones(3),
    minibatches.uniform(jnp.zeros(1), 1),
    nbeta=100.0,
    localization=10.0,
    step_size=1e-4,
    **SHORT,
  )
  run(whole)
  with pytest.raises(ValueError, match=r'halves of a loss must agree.*1\.52'):
    run(off)


def test_a_trajectory_refuses_them_before_it_stores_anything(tmp_path):
  lens = weights.all_weights()
  loss = weights.refine(bowl, lens)._replace(
    context=lambda params, batch: ((params, batch), bowl(params, batch) - 0.5)
  )
  batches = minibatches.uniform(jnp.zeros(1), 1)
  with pytest.raises(ValueError, match='halves of a loss'):
    rllc_jax.estimate_trajectory(
      jax.random.key(0),
      family(loss, ('all',), lens, jnp.zeros(1)),
      types.Trajectory((3,), lambda steps: np.ones((len(steps), 2), 'f4')),
      {'data': types.Window(0, 1)},
      batches,
      rllc_jax.Sampling(**SETTINGS, **SHORT),
      store=rllc_jax.open_store(tmp_path / 'store'),
    )
  assert not rllc_jax.open_store(tmp_path / 'store').max_recorded_draws()


@jax.custom_vjp
def doubled(u):
  return u


doubled.defvjp(lambda u: (u, ()), lambda _, g: (2 * g,))


@pytest.mark.parametrize(
  ('change', 'leaf'),
  [
    (lambda p: {**p, 'b': jax.lax.stop_gradient(p['b'])}, 'b'),
    (lambda p: {**p, 'a': doubled(p['a'])}, 'a'),
    (lambda p: {**p, 'c': jnp.round(64 * p['c']) / 64}, 'c'),
    (lambda p: {**p, 'c': jax.lax.stop_gradient(p['c'][:4])}, 'c'),
  ],
  ids=['stopped', 'custom', 'rounded', 'partly'],
)
def test_a_gradient_that_is_not_the_loss_s_is_refused_by_leaf(change, leaf):
  """Along the gradient itself a stopped leaf would not show."""
  params = {'a': jnp.zeros(5), 'b': jnp.zeros((2, 4)), 'c': jnp.zeros(8)}
  wrong = lambda p, batch: bowl(change(p), batch) + 0 * bowl(p, batch)
  if leaf == 'c' and change(params)['c'].shape == (4,):
    rest = lambda p: jnp.sum(p['c'][4:] ** 2)
    wrong = lambda p, batch: bowl(change(p), batch) + 0.5 * rest(p)
  with pytest.raises(ValueError, match=re.escape(f"['{leaf}']")):
    estimate(wrong, params)


@pytest.mark.parametrize('gamma', [0.0, 10.0])
@pytest.mark.parametrize(
  'loss_fn',
  [
    bowl,
    lambda p, batch: 10.8 + bowl(p, batch),
    lambda p, batch: jnp.sum(p['b'] ** 4) + jnp.sum(abs(p['a'])),
    lambda p, batch: jnp.sum(jax.nn.relu(p['b'])) + bowl(p, batch),
    lambda p, batch: jnp.log(1 + 1e3 * bowl(p, batch)),
    lambda p, batch: bowl({'a': p['a'] + 30, 'b': p['b']}, batch),
    lambda p, batch: jnp.max(p['b']) ** 2 + jax.nn.relu(p['a'][0] - 9.0),
  ],
)
def test_right_gradients_pass_far_from_bowls_too(loss_fn, gamma):
  params = {'a': jnp.zeros(5), 'b': jnp.ones((2, 4)), 'c': jnp.zeros(1)}
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    whole = weights.all_weights()
    check(
      [family(weights.refine(loss_fn, whole), ('all',), whole, jnp.zeros(1))],
      params,
      posterior=types.Posterior(100.0, gamma),
    )


def network(activation, dtype, width):
  """A classifier of noise in three layers, computed in a dtype."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, labels = normal(64, 16), jnp.asarray(rng.integers(0, 10, 64))
  params = {
    'w1': normal(16, width) / 4,
    'b1': normal(width) / 10,
    'w2': normal(width, width) / 6,
    'b2': normal(width) / 10,
    'w3': normal(width, 10) / 6,
  }

  def loss_fn(params, batch):
    p = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    h = activation(x.astype(dtype) @ p['w1'] + p['b1'][None])
    h = activation(h @ p['w2'] + p['b2'][None])
    log_odds = jax.nn.log_softmax((h @ p['w3']).astype(jnp.float32))
    return -jnp.mean(log_odds[jnp.arange(64), labels]) + 0 * jnp.sum(batch)

  return params, loss_fn


@pytest.mark.parametrize(
  ('activation', 'dtype', 'nbeta'),
  [
    ('relu', 'float32', 30.0),
    ('leaky_relu', 'float32', 1000.0),
    ('relu', 'bfloat16', 1000.0),
    ('tanh', 'bfloat16', 30.0),
    ('leaky_relu', 'float16', 1000.0),
  ],
)
@pytest.mark.filterwarnings('ignore:The gradient of')
def test_kinks_and_low_precision_are_no_wrong_gradients(
  activation, dtype, nbeta
):
  """Curvature and kinks fade over short ways; roundings grow."""
  whole = weights.all_weights()

  def check_loss(loss_fn, gamma):
    loss = weights.refine(loss_fn, whole)
    check(
      [family(loss, ('all',), whole, jnp.zeros(1))],
      params,
      posterior=types.Posterior(nbeta, gamma),
    )

  for width in (4, 32):
    params, loss_fn = network(getattr(jax.nn, activation), dtype, width)
    for gamma in (0.0, 100.0):
      check_loss(loss_fn, gamma)

  def stopped(params, batch):
    frozen = {**params, 'w2': jax.lax.stop_gradient(params['w2'])}
    return loss_fn(frozen, batch)

  if dtype == 'float32':
    with pytest.raises(ValueError, match=r"\['w2'\]"):
      check_loss(stopped, 100.0)


def test_control_variates_are_held_against_their_plain_loss():
  """They stop a gradient on purpose: the chain is that of the plain loss."""
  lens = weights.all_weights()

  def loss_fn(w, batch):
    return 0.5 * jnp.mean((w[None] - batch) ** 2)

  data = jax.random.normal(jax.random.key(1), (20, 3))
  plain = family(weights.refine(loss_fn, lens), ('all',), lens, jnp.zeros(1))
  anchored = control_variates.Anchored(jnp.ones(3), jnp.ones(3))
  check([control_variates.control_variates(plain, loss_fn)], anchored, data)
  blind = control_variates.control_variates(plain, loss_fn)
  blind = blind._replace(loss=blind.loss._replace(driven_by=None))
  with pytest.raises(ValueError, match='gradient of the loss must be that'):
    check([blind], anchored, data)


def test_where_float32_cannot_tell_a_warning_says_so():
  loss_fn = lambda w, batch: 1e4 + 1e-6 * jnp.sum(w**2)
  whole = weights.all_weights()
  flat = family(weights.refine(loss_fn, whole), ('all',), whole, jnp.zeros(1))
  with pytest.warns(UserWarning, match='could not be checked'):
    check([flat], jnp.zeros(3), posterior=types.Posterior(1e4, 100.0))


def test_a_loss_that_is_not_finite_is_not_blamed_on_the_step():
  with pytest.raises(ValueError, match='finite at the checkpoint.*No step'):
    estimate(lambda w, batch: jnp.log(w).sum(), -jnp.ones(2))


@pytest.mark.parametrize(
  ('loss_fn', 'params', 'words'),
  [
    (lambda w, b: (jnp.sum(w), b), jnp.ones(2), 'got tuple of 2'),
    (lambda w, b: w**2, jnp.ones(2), r'float32 of shape \[2\]'),
    (bowl, {}, 'weights that move, or there is nothing'),
    (bowl, {'a': jnp.ones(2), 'f': max}, r"builtin.* at \['f'\]"),
    (bowl, {'w': jnp.ones(2, int)}, r"float32 or float64.*int32 at \['w'\]"),
    (bowl, {'w': jnp.ones(2, 'bfloat16')}, r"bfloat16 at \['w'\]"),
  ],
)
def test_what_is_no_loss_or_no_weights_is_refused(loss_fn, params, words):
  with pytest.raises(ValueError, match=words):
    estimate(loss_fn, params)


def test_mala_wants_all_of_the_data():
  """On minibatches it gave 4.60 at 1.40 without a word."""
  loss_fn = lambda w, batch: 0.5 * jnp.mean((w[None] - batch) ** 2)
  data = jax.random.normal(jax.random.key(1), (40, 3))
  with pytest.raises(ValueError, match='mala must see all of the data'):
    estimate(loss_fn, jnp.zeros(3), data, batch_size=4, sampler=rllc_jax.mala())
  estimate(
    loss_fn, jnp.zeros(3), data, batch_size=None, sampler=rllc_jax.mala()
  )


def test_ids_outside_the_vocabulary_are_refused_where_it_is_known():
  apply = lambda W, tokens: W[tokens] @ W.T
  loss_fn = losses.next_token_loss(apply)
  W = 0.1 * jax.random.normal(jax.random.key(1), (7, 3))
  tokens = np.random.default_rng(0).integers(0, 7, (6, 5))
  for strange in (7, -1, 65535):
    bad = tokens.copy()
    bad[4, 2] = strange
    with pytest.raises(ValueError, match=rf'0 to 6.*got {strange} at \[4, 2\]'):
      estimate(loss_fn, W, bad, batch_size=2)
  padded = tokens.copy()
  padded[:, 3:] = losses.IGNORED
  estimate(loss_fn, W, padded, batch_size=2)


@pytest.mark.parametrize('value', [24.0, np.int64(24), np.float32(24)])
def test_whole_numbers_may_come_in_any_type(value):
  data = jnp.zeros(30)
  names = ('num_draws', 'num_chains', 'burn_in', 'num_steps_between_draws')
  for name in names[:1]:
    result = estimate(bowl, jnp.zeros(2), data, **{name: value})
    assert result.traces['loss'].shape == (1, 24)
  result = estimate(bowl, jnp.zeros(2), data, batch_size=value)
  assert result.traces['loss'].shape == (1, 24)


@pytest.mark.parametrize('value', [2.5, 'two', None, True, np.nan, [24]])
@pytest.mark.parametrize(
  'name', ['num_draws', 'num_chains', 'num_steps_between_draws', 'batch_size']
)
def test_others_are_refused_by_the_name_of_the_argument(name, value):
  if value is None and name in ('batch_size', 'num_draws'):
    return  # All of the data; the default.
  with pytest.raises(ValueError, match=f'{name} must be a whole number'):
    estimate(bowl, jnp.zeros(2), jnp.zeros(30), **{name: value})


def test_what_is_checked_is_said_before_it_compiles(caplog):
  rows = family(weights.refine(bowl, ROW), ('w0',), ROW, jnp.arange(1))
  with caplog.at_level('INFO', logger='rllc_jax'):
    check([rows, rows._replace(names=('w1',))], {'w': jnp.arange(3.0)})
  said = [record.getMessage() for record in caplog.records]
  assert said == ['checking family 1 of 2 (w0)', 'checking family 2 of 2 (w1)']
