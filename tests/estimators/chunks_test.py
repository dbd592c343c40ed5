"""Short of memory, a run goes on in smaller chunks, and loses nothing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rllc_jax
from rllc_jax import types
from rllc_jax.estimators import compilation
from rllc_jax.estimators import footprint
from rllc_jax.estimators import grid
from rllc_jax.estimators import program
from rllc_jax.results import memory
from tests.estimators import toy

TRACES = ('loss', 'center_loss', 'squared_distance')
OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED: Out of memory allocating 400 bytes.'
HALVED = 'ignore:6 columns in parallel do not fit'


@pytest.fixture
def chosen(monkeypatch):
  """All six columns of a block are chosen to run at once."""
  choose = lambda num_columns, measure, device: num_columns
  monkeypatch.setattr(grid, 'default_chunk_size', choose)


@pytest.fixture
def limited(monkeypatch, chosen):
  """Programs of chunks over a limit run a few times, and then out of memory."""

  def limit(most, calls=0, message=OUT_OF_MEMORY):
    build, left = program.block_program, [calls]

    def limited_program(*args, chunk_size, **options):
      built = build(*args, chunk_size=chunk_size, **options)

      def compiled(*args):
        def call(*args):
          left[0] -= 1
          if left[0] < 0:
            raise jax.errors.JaxRuntimeError(message)
          return built.run.compiled(*args)(*args)

        fits = chunk_size <= most
        return built.run.compiled(*args) if fits else call

      run = compilation.ShardedFunction(built.run.place, compiled)
      return built._replace(run=run)

    monkeypatch.setattr(program, 'block_program', limited_program)

  return limit


def run(**options):
  return toy.run(mesh=grid.make_mesh(1, 1), **options)


class WatchedStore(memory.MemoryStore):
  """Notes what is written."""

  def __init__(self):
    self.written = []

  def write(self, rows, columns, first, traces, states, baseline):
    count = traces['loss'].shape[2]
    self.written += [
      (*row, *column, draw)
      for row in rows
      for column in columns
      for draw in range(first, first + count)
    ]
    super().write(rows, columns, first, traces, states, baseline)


@pytest.mark.parametrize(
  ('most', 'calls', 'said'),
  [
    (3, 0, ['6 columns .* going on with 3']),
    (1, 0, ['6 columns .* going on with 3', '3 columns .* going on with 1']),
    (2, 2, ['6 columns .* going on with 3', '3 columns .* going on with 1']),
  ],
)
def test_chunks_are_halved_until_they_fit(most, calls, said, limited):
  """At first and in mid-block; nothing is lost, nothing is stored twice."""
  expected = run(chunk_size=6)
  limited(most, calls)
  store = WatchedStore()
  with pytest.warns(UserWarning) as warned:
    result = run(segment=7, store=store)
  assert len(warned) == len(said)
  for warning, words in zip(warned, said, strict=True):
    assert re.search(words, str(warning.message))
  for name in TRACES:
    scale = np.abs(expected[name].values).max()
    np.testing.assert_allclose(
      result[name], expected[name], rtol=1e-5, atol=1e-6 * scale
    )
  assert len(store.written) == len(set(store.written)) == 6 * 6 * 30
  assert (result.recorded == 30).all()


@pytest.mark.filterwarnings(HALVED)
def test_what_was_stored_before_stays_and_goes_on_from_disk(limited, tmp_path):
  expected = run(segment=7)
  store = lambda: rllc_jax.open_store(tmp_path / 'store')
  run(num_draws=24, burn_in=0, store=store())
  limited(3, calls=0)
  result = run(store=store())
  for name in TRACES:
    np.testing.assert_allclose(result[name], expected[name], rtol=1e-5)


@pytest.mark.filterwarnings(HALVED)
def test_progress_counts_no_draw_twice(limited):
  limited(3, calls=1)
  calls = []
  run(segment=7, progress=lambda done, total: calls.append((done, total)))
  done = [count for count, _ in calls]
  assert done == sorted(done)
  assert calls[-1] == (36 * 30, 36 * 30)


def test_one_column_that_does_not_fit_is_a_line(limited):
  limited(0)
  with (
    pytest.warns(UserWarning, match='going on with'),
    pytest.raises(ValueError, match='At least one column.*batch_size.*RESOURC'),
  ):
    run()


@pytest.mark.parametrize(
  ('limit', 'advice'),
  [(None, 'Take 3, or None'), (1_000_000, 'Take 3,'), (23_000, 'Take 2, or')],
)
def test_a_given_chunk_size_is_not_changed(limit, advice, limited, monkeypatch):
  """The advice is what was measured to fit, and no more than half.

  23,000 bytes are 17,250 to use: 7,000 of them shared, so 2 columns of 5,000.
  """
  limited(3)
  stats = {'bytes_limit': limit} if limit else None
  fit = grid.fitting_chunk_size
  device = type('Device', (), {'memory_stats': lambda self: stats})()
  monkeypatch.setattr(
    grid, 'fitting_chunk_size', lambda n, measure, _: fit(n, measure, device)
  )
  monkeypatch.setattr(
    footprint,
    'measured',
    lambda *args, **options: footprint.Footprint(7_000, 5_000),
  )
  with pytest.raises(ValueError, match=f'got 6. {advice}.*RESOURCE_E') as error:
    run(chunk_size=6)
  assert '\n' not in str(error.value)


def test_another_error_is_raised_as_it_is(limited):
  limited(3, message='INTERNAL: something else')
  with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
    run()


@jax.custom_batching.custom_vmap
def hungry(x):
  return 0.0 * x


@hungry.def_vmap
def _(axis_size, in_batched, x):
  """Takes 400 terabytes for more than two at once, which no machine has."""
  del in_batched
  if axis_size <= 2:
    return 0.0 * x, True
  rows = jnp.broadcast_to(x[:1, None] + jnp.arange(1e7)[:, None], (10**7,) * 2)
  taken = jnp.sort(jnp.sin(rows) + rows.T, axis=0)[0, :1]
  return 0.0 * jnp.broadcast_to(taken, x.shape), True


def hungry_family():
  def loss(u, context, index):
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(u))
    extra = hungry(jax.lax.stop_gradient(total))
    return toy.LOSS.loss(u, context, index) + extra

  refined = types.RefinedLoss(toy.LOSS.context, loss)
  return toy.family(0, 1, 2)._replace(loss=refined)


def test_a_real_shortage_on_a_cpu(chosen):
  """XLA says so when the program runs, not when it is compiled."""
  expected = run()
  with pytest.warns(UserWarning) as warned:
    result = run(refinements=hungry_family())
  said = [str(warning.message) for warning in warned]
  assert re.search('going on with 3 .*RESOURCE_EXHAUSTED', said[0])
  assert re.search('going on with 1 .*RESOURCE_EXHAUSTED', said[1])
  for name in TRACES:
    np.testing.assert_allclose(
      result[name], expected[name], rtol=1e-5, atol=1e-6
    )


def test_a_real_shortage_at_one_checkpoint(chosen):
  estimate = lambda family: toy.estimate(
    jax.random.key(0),
    family,
    toy.checkpoint(0),
    rllc_jax.uniform(toy.data(), 4),
    nbeta=30.0,
    localization=50.0,
    step_size=1e-3,
    num_chains=2,
    num_draws=24,
    burn_in=0,
  )
  expected = estimate(toy.family(0, 1, 2))
  with pytest.warns(UserWarning, match='going on with'):
    result = estimate(hungry_family())
  np.testing.assert_allclose(result.llc, expected.llc, rtol=1e-4)
