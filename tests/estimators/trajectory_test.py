"""Whatever surrounds a cell of the grid, the cell is the same."""

import functools
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

import rllc_jax
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.estimators import program
from rllc_jax.samplers import sgld
from tests.estimators import toy

COMPILED = toy.compile_counter()


class InvarianceTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = toy.run(mesh=grid.make_mesh(1, 1))

  @parameterized.parameters(
    {'chunk_size': 3},
    {'chunk_size': 6},
    {'chunk_size': 4},  # Does not divide 6 columns: padded.
    {'segment': 7},
    {'segment': 30},
    {'rows_per_block': 6},
    {'rows_per_block': 4},  # Does not divide 6 rows: padded.
  )
  def test_chunk_segment_and_block_change_nothing(self, **layout_options):
    options = {'mesh': grid.make_mesh(1, 1)} | layout_options
    toy.assert_same_traces(toy.run(**options), self.whole)

  @parameterized.parameters((2, 1), (1, 2))
  def test_two_devices_change_nothing(self, rows, columns):
    result = toy.run(mesh=grid.make_mesh(rows, columns))
    toy.assert_same_traces(result, self.whole)

  def test_a_segment_changes_no_bit(self):
    options = {'mesh': grid.make_mesh(1, 1)}
    for segment in (1, 7, 30):
      result = toy.run(segment=segment, **options)
      for name in toy.TRACES:
        np.testing.assert_array_equal(result[name], self.whole[name])

  def test_a_longer_run_begins_with_the_shorter(self):
    longer = toy.run(num_draws=60).isel(draw=slice(30))
    toy.assert_same_traces(longer, self.whole)

  def test_more_of_anything_repeats_the_fewer(self):
    more = toy.run(
      num_chains=5,
      trajectory=toy.trajectory(toy.STEPS[:5]),
      datasets={'more': types.Window(0, 3), **toy.DATASETS},
    )
    whole = self.whole
    part = more.sel(dataset=whole.dataset, checkpoint=whole.checkpoint)
    toy.assert_same_traces(part.isel(chain=slice(2)), whole)

  def test_the_order_of_a_list_is_not_an_address(self):
    result = toy.run(
      refinements=[toy.family(2, 0)],
      datasets=dict(reversed(toy.DATASETS.items())),
    )
    part = self.whole.sel(refinement=result.refinement, dataset=result.dataset)
    toy.assert_same_traces(result, part)

  def test_families_of_their_own_change_nothing(self):
    result = toy.run(refinements=[toy.family(1), toy.family(0, 2)])
    toy.assert_same_traces(result, self.whole.sel(refinement=result.refinement))

  def test_chains_heads_checkpoints_and_data_sets_differ(self):
    """Or else the equalities above could be those of constants."""
    loss = self.whole.loss.isel(draw=5)
    for dim in ('chain', 'refinement', 'checkpoint', 'dataset'):
      self.assertGreater(float(np.abs(loss.diff(dim)).min()), 0)

  def test_every_cell_has_noise_of_its_own(self):
    """Without loss and localization the first step is noise alone."""
    result = toy.run(nbeta=0.0, localization=0.0)
    lengths = result.squared_distance.isel(draw=1).values.ravel()
    self.assertLen(np.unique(lengths), 3 * 2 * 3 * 2)

  def test_noise_is_at_its_address(self):
    """Run, stream 1, data set, step, refinement, chain, step; names by CRC."""
    result = toy.run(
      nbeta=0.0,
      localization=0.0,
      sampler='sgld',
      observe=lambda position, context: {'v': position['v']},
    )
    crc = lambda name: np.uint32(zlib.crc32(name.encode()))
    path = (1, crc('code'), 20, crc('0:2'), 1, 0)
    key = functools.reduce(jax.random.fold_in, path, jax.random.key(0))
    # The flat order is alphabetical: 8 numbers of W, then 4 of v.
    noise = jax.random.normal(key, (12,))[8:]
    cell = result.v.sel(
      checkpoint=20, dataset='code', refinement='0:2', chain=1
    )
    moved = cell.isel(draw=1).values - cell.isel(draw=0).values
    np.testing.assert_allclose(moved, np.sqrt(1e-3) * noise, atol=1e-6)

  def test_all_columns_share_the_minibatch_of_a_step(self):
    center = self.whole.center_loss
    for dim in ('chain', 'refinement'):
      self.assertEqual(float(np.abs(center.diff(dim)).max()), 0)
    self.assertGreater(float(center.std('draw').min()), 0)

  def test_batches_of_their_own_differ_and_repeat(self):
    own = toy.run(share_batches=False)
    # Two minibatches of 4 out of 24 are the same in 1 of 14,000 draws.
    different = own.center_loss.diff('chain') != 0
    self.assertGreater(float(different.mean()), 0.99)
    again = toy.run(share_batches=False, num_chains=3, chunk_size=3)
    toy.assert_same_traces(again.isel(chain=slice(2)), own)

  def test_the_first_draw_is_the_checkpoint(self):
    first = self.whole.isel(draw=0)
    np.testing.assert_allclose(first.loss, first.center_loss, rtol=3e-7)
    self.assertEqual(float(first.squared_distance.max()), 0)

  def test_draws_are_every_so_many_steps(self):
    """Of one and the same chain."""
    apart = toy.run(num_steps_between_draws=3, num_draws=24, burn_in=0)
    every = toy.run(num_draws=72, burn_in=0)
    np.testing.assert_array_equal(apart.draw, every.draw[::3])
    toy.assert_same_traces(apart, every.isel(draw=slice(None, None, 3)))

  def test_observations_are_recorded_at_draws(self):
    def observe(position, context):
      del context
      return {'v': position['v'], 'length': jnp.sum(position['W'] ** 2)}

    result = toy.run(observe=observe)
    self.assertEqual(result.v.shape, (3, 2, 3, 2, 30, 4))
    for step in result.checkpoint.values:
      at_start = result.v.sel(checkpoint=step).isel(draw=0)[0, :, 0]
      np.testing.assert_array_equal(at_start, toy.checkpoint(step)['v'])
    toy.assert_same_traces(result, self.whole)


class OneAmongManyTest(absltest.TestCase):
  def test_chain_alone_and_among_64(self):
    """The same minibatches and noise bit for bit, losses to 1e-5 in 100 steps.

    Without loss and localization a position is the sum of its noise, so the
    noise is compared bit for bit through what is observed.
    """
    options = {
      'refinements': [toy.family(1)],
      'trajectory': toy.trajectory(toy.STEPS[1:2]),
      'datasets': {'text': toy.DATASETS['text']},
      'burn_in': 0,
      'num_draws': 100,
    }
    observe = lambda position, context: {
      'v': position['v'],
      'batch': context[1],
    }
    with self.subTest('losses'):
      alone = toy.run(num_chains=1, **options)
      many = toy.run(num_chains=64, **options)
      np.testing.assert_allclose(
        many.loss.isel(chain=slice(1)), alone.loss, rtol=1e-5
      )
    with self.subTest('bits'):
      options |= {'nbeta': 0.0, 'localization': 0.0, 'observe': observe}
      alone = toy.run(num_chains=1, **options)
      many = toy.run(num_chains=64, **options).isel(chain=slice(1))
      np.testing.assert_array_equal(many.v, alone.v)
      np.testing.assert_array_equal(many.batch, alone.batch)
      self.assertGreater(float(many.v.std('draw').min()), 0)


class CompilationTest(absltest.TestCase):
  def test_one_block_program_a_family_whatever_the_rows(self):
    for num_checkpoints in (3, 7):
      # New functions, so that no program is found from before.
      families = [
        toy.family(*heads)._replace(
          lens=types.Lens(*toy.LENS),
          loss=types.RefinedLoss(
            lambda params, batch: toy.LOSS.context(params, batch),
            lambda u, context, index: toy.LOSS.loss(u, context, index),
          ),
        )
        for heads in ((0, 1), (2,))
      ]
      COMPILED.clear()
      toy.run(
        refinements=families,
        trajectory=toy.trajectory(toy.STEPS[:num_checkpoints]),
        segment=7,
      )
      self.assertEqual(COMPILED['jit(run)'], 2)
      self.assertEqual(COMPILED['jit(init)'], 2)

  def test_a_sweep_compiles_nothing(self):
    toy.run()
    COMPILED.clear()
    toy.run(nbeta=10.0, localization=100.0, step_size=1e-4, burn_in=6)
    self.assertEqual(COMPILED['jit(run)'], 0)

  def test_one_block_program_a_family_in_a_whole_sweep(self):
    """Checkpoints x data sets x heads x chains, settings, lengths of runs."""
    fresh = lambda *heads: toy.family(*heads)._replace(
      loss=types.RefinedLoss(
        lambda params, batch: toy.LOSS.context(params, batch),
        lambda u, context, index: toy.LOSS.loss(u, context, index),
      )
    )
    families = [fresh(0, 1), fresh(2)]
    COMPILED.clear()
    settings = ((30.0, 50.0, 1e-3), (10.0, 50.0, 1e-3), (30.0, 80.0, 5e-4))
    for nbeta, localization, step_size in settings:
      for num_draws in (24, 40):
        toy.run(
          refinements=families,
          trajectory=toy.trajectory(toy.STEPS[:2]),
          nbeta=nbeta,
          localization=localization,
          step_size=step_size,
          num_draws=num_draws,
        )
    self.assertEqual(COMPILED['jit(run)'], 2)
    self.assertEqual(COMPILED['jit(init)'], 2)

  def test_a_sweep_of_one_checkpoint_compiles_one_program(self):
    family = toy.family(0, 1)
    loss = types.RefinedLoss(
      lambda params, batch: toy.LOSS.context(params, batch),
      lambda u, context, index: toy.LOSS.loss(u, context, index),
    )
    COMPILED.clear()
    for nbeta, num_draws in ((30.0, 24), (10.0, 30)):
      toy.estimate(
        jax.random.key(0),
        family._replace(loss=loss),
        toy.checkpoint(0),
        minibatches.uniform(toy.data(), 4),
        nbeta=nbeta,
        localization=50.0,
        step_size=1e-3,
        num_chains=2,
        num_draws=num_draws,
        burn_in=6,
      )
    self.assertEqual(COMPILED['jit(run)'], 1)

  def test_no_collective_in_the_program(self):
    mesh = grid.make_mesh(2, 1)
    batches = minibatches.uniform(toy.data(), 4)
    family = toy.family(0, 1)
    built = program.block_program(
      family.lens,
      family.loss,
      sgld.sgld(),
      batches.draw,
      mesh=mesh,
      chunk_size=2,
      max_draws=10,
    )
    trajectory = toy.trajectory()
    rows = program.make_rows(
      jax.random.key(0),
      trajectory.load(trajectory.steps[:2]),
      [(0, 'text'), (10, 'code')],
      list(toy.DATASETS.values()),
    )
    columns = program.make_columns(family, [(0, 0), (1, 0)])
    states, _ = built.init(rows, columns, batches.data)
    args = built.run.place(
      rows,
      columns,
      states,
      jnp.ones((2, 2), bool),
      jnp.int32(0),
      jnp.int32(10),
      program.make_settings(types.Posterior(30.0, 50.0), 1e-3),
      batches.data,
    )
    text = built.run.compiled(*args).as_text()
    self.assertIn('while', text)
    for word in ('all-reduce', 'all-gather', 'all-to-all', 'permute('):
      self.assertNotIn(word, text)


class ProgressTest(absltest.TestCase):
  def test_padding_of_rows_and_columns_does_not_count(self):
    """6 rows in blocks of 4, 6 columns in chunks of 4, 30 draws in sevens."""
    calls = []
    toy.run(
      mesh=grid.make_mesh(1, 1),
      rows_per_block=4,
      chunk_size=4,
      segment=7,
      progress=lambda done, total: calls.append((done, total)),
    )
    done, totals = np.array(calls).T
    self.assertEqual(set(totals), {6 * 6 * 30})
    sizes = [[rows * 6 * n for n in (0, 7, 7, 7, 7, 2)] for rows in (4, 2)]
    np.testing.assert_array_equal(np.diff(done), np.concatenate(sizes))
    self.assertEqual((done[0], done[-1]), (0, totals[0]))

  def test_segments_grow_within_what_is_left(self):
    calls = []
    toy.run(progress=lambda done, total: calls.append((done, total)))
    done, totals = np.array(calls).T
    self.assertEqual(done[-1], totals[0])
    # Two rows a block: 4 draws to learn from, then all the rest at once.
    steps = np.diff(done).reshape(3, 3)
    np.testing.assert_array_equal(steps, [[0, 4 * 12, 26 * 12]] * 3)


class DoorTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'nbeta': -1.0, 'localization': 50.0}, 'nbeta must be at least 0'),
    ({'nbeta': 30.0, 'localization': -1.0}, 'localization must be'),
    ({'step_size': 0.0}, 'step_size must be positive'),
    ({'step_size': float('nan')}, 'step_size must be positive'),
    ({'step_size': 0.1}, 'must be under 4'),
    ({'num_draws': 23}, 'At least 24 draws.*got 23'),
    ({'num_chains': 0}, 'num_chains must be positive'),
    ({'num_chains': 10**12}, 'num_chains must be at most 1,048,576'),
    ({'num_draws': 10**12}, 'num_draws and burn_in must be at most 16,777,216'),
    ({'num_steps_between_draws': 2**28}, 'in steps, must be at most'),
    ({'rng_key': jax.random.PRNGKey(0)}, 'typed threefry key'),
    ({'rng_key': jax.random.key(0, impl='rbg')}, 'threefry2x32'),
    ({'datasets': {}}, 'datasets must hold'),
    ({'datasets': {'a\0': toy.DATASETS['text']}}, r"without NUL.*got 'a\\x00'"),
    ({'datasets': {'\ud800': toy.DATASETS['text']}}, r"got '\\ud800'"),
    ({'trajectory': toy.trajectory((0, 0))}, 'checkpoints must differ.*0'),
    ({'refinements': [toy.family(0), toy.family(0)]}, "'0:0' more than once"),
    ({'nbeta': 30.0, 'localization': 0.0, 'burn_in': None}, 'burn_in must'),
    ({'rows_per_block': 3}, 'multiple of the mesh rows, 2'),
    ({'datasets': {'far': types.Window(60, 5)}}, "'far' must.*64 sequences"),
    ({'datasets': {'none': types.Window(0, 0)}}, "'none' must hold at least"),
    (
      {'trajectory': types.Trajectory((0,), lambda s: toy.checkpoint(0))},
      'leading axis, one entry a step',
    ),
  )
  def test_said_before_anything_is_compiled(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      toy.run(**options)

  @parameterized.parameters(
    (lambda u, p, i: p, toy.loss_fn, 'must read what it writes'),
    (
      lambda u, p, i: toy.LENS.insert(u, p, (i + 1) % 3),
      toy.loss_fn,
      'must read what it writes',
    ),
    (lambda u, p, i: u, toy.loss_fn, 'must read what it writes'),
    (toy.LENS.insert, lambda p, b: b[:, 0], r'one floating-point.*shape \[4\]'),
  )
  def test_a_wrong_lens_or_loss_is_refused(self, insert, loss_fn, message):
    lens = types.Lens(toy.LENS.extract, insert)
    loss = rllc_jax.refine(loss_fn, lens)
    family = types.Refinements(('x',), lens, jnp.arange(1), loss)
    with self.assertRaisesRegex(ValueError, message):
      toy.run(refinements=family)

  def test_a_checkpoint_with_nan_is_named_and_loses_nothing(self):
    path = toy.directory() / 'store'
    toy.run(store=rllc_jax.open_store(path), trajectory=toy.trajectory((0, 10)))
    before = rllc_jax.open_store(path).read()

    def load(steps):
      params = toy.trajectory().load(steps)
      params['v'][np.array(steps) == 20] = np.nan
      return params

    with self.assertRaisesRegex(ValueError, r"12 values .*'v'.* step 20"):
      toy.run(
        trajectory=types.Trajectory((0, 10, 20), load),
        store=rllc_jax.open_store(path),
      )
    after = rllc_jax.open_store(path).read()
    np.testing.assert_array_equal(before.loss, after.loss)

  @parameterized.parameters('loss', 'recorded', 'draw', 'a/b')
  def test_an_observation_cannot_take_a_name_of_the_run(self, name):
    with self.assertRaisesRegex(ValueError, f'observe must.*{name}'):
      toy.run(observe=lambda u, context: {name: jnp.float32(1)})

  def test_names_and_indices_must_agree(self):
    family = toy.family(0, 1)._replace(names=('0:0', '0:1', '0:2'))
    with self.assertRaisesRegex(ValueError, '3 names and 2 indices'):
      toy.run(refinements=family)

  def test_half_precision_is_refused(self):
    half = lambda steps: jax.tree.map(
      lambda leaf: leaf.astype(jnp.bfloat16), toy.trajectory().load(steps)
    )
    with self.assertRaisesRegex(ValueError, 'float32 or float64.*bfloat16'):
      toy.run(trajectory=types.Trajectory((0,), half))


if __name__ == '__main__':
  absltest.main()
