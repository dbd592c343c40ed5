"""A toy with everything that a run needs: three heads, two data sets."""

import dataclasses
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import calibration
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.estimators import rllc
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.refinement import weights

STEPS = (0, 10, 20, 40, 80, 160, 320)
DATASETS = {'text': types.Window(0, 40), 'code': types.Window(40, 24)}


def loss_fn(params, batch):
  """tanh regression through three 'heads' that add up; batch [B, 3]."""
  x, y = batch[:, :2], batch[:, 2]
  heads = jnp.tanh(jnp.einsum('bi,hij->hbj', x, params['W']))
  return jnp.mean((jnp.einsum('hbj,hj->b', heads, params['v']) - y) ** 2)


def _insert(position, params, head):
  return {name: params[name].at[head].set(position[name]) for name in params}


LENS = types.Lens(
  lambda params, head: jax.tree.map(lambda leaf: leaf[head], params), _insert
)
LOSS = weights.refine(loss_fn, LENS)


def family(*heads):
  names = tuple(f'0:{head}' for head in heads)
  return types.Refinements(names, LENS, jnp.array(heads, jnp.int32), LOSS)


def checkpoint(step):
  rng = np.random.default_rng(step)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {'W': normal(3, 2, 4), 'v': normal(3, 4)}


def trajectory(steps=STEPS[:3]):
  load = lambda steps: trees.stack([checkpoint(step) for step in steps])
  return types.Trajectory(tuple(steps), load)


def data():
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=(64, 3)), jnp.float32)


def split(options, **defaults):
  """Options of a run as (Sampling, Layout, the rest)."""
  options = defaults | options
  fields = lambda kind: {
    field.name: options.pop(field.name)
    for field in dataclasses.fields(kind)
    if field.name in options
  }
  sampling = settings.Sampling(**fields(settings.Sampling))
  return sampling, settings.Layout(**fields(settings.Layout)), options


def arguments(**changes):
  """(args, kwargs) of `estimate_trajectory` for a small run."""
  sampling, layout, options = split(
    changes,
    rng_key=jax.random.key(0),
    refinements=[family(0, 1, 2)],
    trajectory=trajectory(),
    datasets=DATASETS,
    minibatches=minibatches.uniform(data(), 4),
    nbeta=30.0,
    localization=50.0,
    step_size=1e-3,
    num_chains=2,
    num_draws=24,
    burn_in=6,
    num_baseline_batches=4,
  )
  names = 'rng_key', 'refinements', 'trajectory', 'datasets', 'minibatches'
  args = [options.pop(name) for name in names]
  return (*args, sampling), {**options, 'layout': layout}


def run(**changes):
  """Traces of a small run, with what is said otherwise."""
  args, kwargs = arguments(**changes)
  return trajectories.estimate_trajectory(*args, **kwargs)


def estimate(rng_key, refinements, params, minibatches, **options):
  """`estimate_rllc` with the settings as keywords."""
  sampling, layout, rest = split(options)
  if layout.mesh is None:
    layout = dataclasses.replace(layout, mesh=grid.make_mesh(1, 1))
  return rllc.estimate_rllc(
    rng_key, refinements, params, minibatches, sampling, layout=layout, **rest
  )


def calibrate(rng_key, refinements, params, minibatches, **options):
  """`calibrate` with the settings as keywords."""
  first = {'step_size': options['step_sizes'][0]}
  for name in ('nbeta', 'localization'):
    first[name] = next(iter(options[f'{name}s']), 1.0)
  sampling, layout, rest = split(options, **first)
  return calibration.calibrate(
    rng_key, refinements, params, minibatches, sampling, layout=layout, **rest
  )


def compile_counter():
  """A Counter of compiled programs by name, from here on."""
  import collections

  counts = collections.Counter()

  def listen(event, duration, fun_name='', **_):
    del duration
    if 'backend_compile' in event:
      counts[fun_name] += 1

  jax.monitoring.register_event_duration_secs_listener(listen)
  return counts


TRACES = ('loss', 'center_loss', 'squared_distance', 'squared_gradient')


def assert_same_traces(result, expected, rtol=1e-5):
  for name in TRACES:
    scale = np.nanmax(np.abs(expected[name].values))
    np.testing.assert_allclose(
      result[name], expected[name], rtol=rtol, atol=1e-6 * scale, err_msg=name
    )


def directory():
  return pathlib.Path(tempfile.mkdtemp())
