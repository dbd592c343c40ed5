"""A store goes on with the loss, the gradient and the observations it has."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rllc_jax
from rllc_jax import identities
from rllc_jax import types
from rllc_jax.estimators import llc
from tests.estimators import toy

SMALL = {
  'trajectory': toy.trajectory((0,)),
  'datasets': {'text': toy.DATASETS['text']},
  'num_chains': 1,
}


def with_loss(change):
  """The family of the toy with another loss; [0:0] alone."""
  loss = rllc_jax.refine(change, toy.LENS)
  return [toy.family(0)._replace(loss=loss)]


def scaled(params, batch):
  return 1.0005 * toy.loss_fn(params, batch)


def with_decay(params, batch):
  """The same at weights of 0.3, where a probe at one point might look."""
  square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
  return toy.loss_fn(params, batch) + 1e-3 * square


def other_gradient():
  """The same values, driven by twice the loss."""
  plain = rllc_jax.refine(toy.loss_fn, toy.LENS)
  twice = lambda *where: 2 * plain.loss(*where)
  value = lambda *where: (
    twice(*where) - jax.lax.stop_gradient(plain.loss(*where))
  )
  return [
    toy.family(0)._replace(loss=types.RefinedLoss(plain.context, value, twice))
  ]


@pytest.mark.parametrize(
  'other', [lambda: with_loss(scaled), lambda: with_loss(with_decay),
            other_gradient],
  ids=['scaled', 'decay', 'gradient'],
)  # fmt: skip
def test_another_loss_is_refused_and_the_same_goes_on(other, tmp_path):
  path = tmp_path / 'store'
  run = functools.partial(toy.run, **SMALL)
  run(refinements=[toy.family(0)], store=rllc_jax.open_store(path))
  again = rllc_jax.refine(lambda p, b: toy.loss_fn(p, b), toy.LENS)
  same = [toy.family(0)._replace(loss=again)]
  run(refinements=same, store=rllc_jax.open_store(path), num_draws=26)
  with pytest.raises(ValueError, match='losses'):
    run(refinements=other(), store=rllc_jax.open_store(path), num_draws=30)


def test_observations_of_one_name_are_one_function(tmp_path):
  path = tmp_path / 'store'
  run = functools.partial(toy.run, refinements=[toy.family(0)], **SMALL)
  seen = lambda factor: lambda u, context: {'seen': factor * u['v'].sum()}
  run(store=rllc_jax.open_store(path), observe=seen(1.0))
  run(store=rllc_jax.open_store(path), observe=seen(1.0), num_draws=26)
  for other in (seen(2.0), lambda u, context: {'seen': u['v'][:2]}):
    with pytest.raises(ValueError, match='observed'):
      run(store=rllc_jax.open_store(path), observe=other, num_draws=30)


def test_probes_may_differ_by_what_devices_differ_by():
  values = [[2.0, 1.0, 1.5], [1e-9, 3.0, 3.5]]
  old = {'losses': {'a': {'device': 'cpu', 'values': values}}}

  def difference(factor, device):
    changed = (np.array(values) * factor).tolist()
    new = {'losses': {'a': {'device': device, 'values': changed}}}
    return identities.merge(old, new)[1]

  assert not difference(1 + 4e-5, 'cpu')
  assert not difference(1 + 9e-4, 'H200')
  assert difference(1 + 6e-5, 'cpu')
  assert difference(1 + 1.1e-3, 'H200')
  # At a perfect fit the loss is rounding; it is nothing beside the other point.
  assert not difference([[1, 1, 1], [1.5, 1, 1]], 'cpu')


def test_the_burn_in_of_a_run_is_the_default_of_its_reader(tmp_path):
  """It was 10 / (step_size localization) whatever the run had been told."""
  path = tmp_path / 'store'
  options = {'refinements': [toy.family(0)], **SMALL}
  traces = toy.run(**options, burn_in=40, num_draws=24)
  assert traces.attrs['burn_in'] == 40
  assert llc.llc_from_traces(traces).num_kept.item() == 24
  chosen = llc.llc_from_traces(traces, burn_in=10)
  assert chosen.num_kept.item() == 54
  assert llc.by_draw(traces).notnull().sum().item() == 24
  for burn_in in (0, 4):  # The last run says.
    toy.run(**options, burn_in=burn_in, store=rllc_jax.open_store(path))
    assert rllc_jax.open_store(path).read().attrs['burn_in'] == burn_in


def test_too_few_draws_name_the_burn_in():
  traces = toy.run(refinements=[toy.family(0)], **SMALL)
  with pytest.raises(ValueError, match=r'got 10 of 30 draws after a burn-in of '
                     r'20 steps\. Give a shorter burn_in'):  # fmt: skip
    llc.llc_from_traces(traces, burn_in=20)


def test_identity_is_json():
  traces = toy.run(refinements=[toy.family(0)], **SMALL)
  assert json.loads(traces.attrs['identity'])['burn_in'] == 6
  assert types.Window(0, 40) == SMALL['datasets']['text']
