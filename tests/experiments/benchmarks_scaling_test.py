"""Lines through times, the multiply-adds that a run takes, and the rounds."""

import itertools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checks.benchmarks import problem as problems
from experiments.checks.benchmarks import runs
from experiments.checks.benchmarks import scaling
from rllc_jax.estimators import multiply_adds
from rllc_jax.models import factored
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer

# Sizes without a common factor, so that no product stands for another.
MODEL = transformer.Architecture(
  num_layers=3,
  num_heads=3,
  d_model=20,
  d_head=7,
  context_length=12,
  vocab_size=31,
)
BLOCK = 5  # Queries; it divides no length here.


def traced(layer, batch_size, context_length):
  """Multiply-adds that JAX traces: of a context, and of a column's gradient."""
  params = MODEL.shapes()
  tiles = frozen_layers.Tiles(scores=2**20, queries=BLOCK, tokens=2**10)
  loss = factored.part_losses(MODEL, tiles=tiles)[f'{layer}:*']
  batch = jax.ShapeDtypeStruct((batch_size, context_length + 1), jnp.int32)
  context, _ = jax.eval_shape(loss.context, params, batch)
  heads = params[f'blocks_{layer}']['attn']
  position = {
    name: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    for name, leaf in heads.items()
    if name != 'b_O'
  }
  count = multiply_adds.multiply_adds
  column = count(jax.grad(loss.loss), position, context, jnp.int32(1))
  return count(loss.context, params, batch), column


def derived(layer, batch_size, context_length, num_columns):
  return runs.step_multiply_adds(
    MODEL,
    layer,
    batch_size=batch_size,
    context_length=context_length,
    num_columns=num_columns,
    block_size=BLOCK,
  )


class MultiplyAddsTest(parameterized.TestCase):
  @parameterized.product(
    layer=(0, 1, 2), size=((1, 4), (2, 5), (3, 12)), num_columns=(1, 6)
  )
  def test_multiply_adds_of_a_column_equal_the_traced_ones(
    self, layer, size, num_columns
  ):
    count = derived(layer, *size, num_columns) - derived(layer, *size, 0)
    self.assertEqual(count, num_columns * traced(layer, *size)[1])

  @parameterized.product(layer=(0, 1, 2), context_length=(4, 5, 12))
  def test_multiply_adds_of_another_sequence_equal_the_traced_ones(
    self, layer, context_length
  ):
    """A difference: products of weights alone, made once a call, drop out."""
    more, fewer = (traced(layer, B, context_length)[0] for B in (3, 2))
    expected = more - fewer
    counts = [derived(layer, B, context_length, 0) for B in (3, 2)]
    self.assertEqual(counts[0] - counts[1], expected)

  def test_multiply_adds_of_the_paper_s_model(self):
    """Design counts 4.0 M and 0.5 M a token and column at context 1,024."""
    size = runs.Size(context_length=1024, batch_size=32)
    for layer, low, high in ((0, 4.0e6, 4.6e6), (1, 0.5e6, 0.9e6)):
      single, double = (
        runs.multiply_adds(size._replace(layer=layer, num_chains=n))
        for n in (1, 2)
      )
      a_token = (double - single) / (size.num_draws * 32 * 1024)
      self.assertBetween(a_token, low, high)

  def test_rows_and_draws_multiply_and_columns_share(self):
    single = runs.multiply_adds(runs.Size())
    for knob in ('num_checkpoints', 'num_datasets', 'num_draws'):
      size = runs.Size()
      size = size._replace(**{knob: 3 * getattr(size, knob)})
      self.assertEqual(runs.multiply_adds(size), 3 * single)
    chains, heads = (
      runs.multiply_adds(runs.Size(**{knob: 3}))
      for knob in ('num_chains', 'num_moving')
    )
    self.assertEqual(chains, heads)
    self.assertLess(chains, 3 * single)


@pytest.mark.long
class CallTest(absltest.TestCase):
  def test_traces_have_the_axes_of_the_size(self):
    """Every size but those of the model is an axis of the traces."""
    size = runs.Size(1, 2, 3, 2, 3, 4, 25, 5, 6)
    runs.weights_and_families.cache_clear()
    self.addCleanup(runs.weights_and_families.cache_clear)
    runs.tokens.cache_clear()
    self.addCleanup(runs.tokens.cache_clear)
    with mock.patch.object(problems, 'MODEL', MODEL):
      call = runs.call(size)
    traces = call()
    self.assertEqual(
      dict(traces.loss.sizes),
      {'checkpoint': 2, 'dataset': 3, 'refinement': 2, 'chain': 4, 'draw': 25},
    )
    self.assertEqual(traces.refinement.values.tolist(), ['1:0', '1:1'])
    self.assertTrue(np.isfinite(traces.loss.values).all())
    batches = call.args[-2]
    key, window = jax.random.key(0), call.args[3]['0']
    batch = batches.draw(key, 0, batches.data, window)
    self.assertEqual(batch.shape, (5, 6 + 1))


class SweepsTest(parameterized.TestCase):
  @parameterized.parameters(scaling.FULL, scaling.QUICK)
  def test_each_sweep_varies_one_size_eightfold(self, *plan):
    plan = scaling.Plan(*plan)
    swept = list(scaling.sweeps(plan))
    self.assertLen(swept, 5 + 2 * len(plan.layers))
    self.assertLen({sweep.knob for sweep in swept}, len(swept))
    for sweep in swept:
      self.assertEqual(sweep.values[-1], 8 * sweep.values[0])
      columns = zip(*sweep.sizes, strict=True)
      turned = [column for column in columns if len(set(column)) > 1]
      # Heads are those of the model and those that move.
      self.assertLen(turned, 2 if 'heads' in sweep.knob else 1)
      for column in turned:
        self.assertEqual(column, sweep.values)

  def test_both_layers_are_swept(self):
    knobs = [sweep.knob for sweep in scaling.sweeps(scaling.FULL)]
    for knob, layer in itertools.product(('context length', 'heads'), '01'):
      self.assertIn(f'{knob}, layer {layer}', knobs)


def entry(seconds, law=scaling.AFFINE):
  """The record of a sweep whose work is 1, 2, 4, 8."""
  sizes = tuple(runs.Size(num_chains=n) for n in (1, 2, 4, 8))
  sweep = scaling.Sweep('chains', scaling.AFFINE, (1, 2, 4, 8), sizes)
  times = {size: [t] for size, t in zip(sizes, seconds, strict=True)}
  tolerance = scaling.TOLERANCES[law]
  return scaling.record(sweep, times) | {'law': law, 'tolerance': tolerance}


class FitTest(parameterized.TestCase):
  def test_fit_recovers_a_line(self):
    fit = scaling.fit([1e9, 2e9, 4e9, 8e9], [0.5, 0.75, 1.25, 2.25])
    self.assertAlmostEqual(fit.fixed, 0.25)
    self.assertAlmostEqual(1e9 * fit.per_work, 0.25)
    self.assertAlmostEqual(fit.share, 100 * 2 / 2.25)
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-9)

  def test_residuals_are_relative(self):
    """In other units they are the same, and no line near has less of them."""
    work = np.array([1.0, 2.0, 4.0, 8.0])
    times = work * (1 + 0.05 * np.array([1, -1, 1, -1]))
    ours = scaling.fit(work, times)
    slower = scaling.fit(10 * work, 60 * times)
    np.testing.assert_allclose(ours.residuals, slower.residuals)
    squares = lambda line: np.sum((line / times - 1) ** 2)
    best = squares(ours.fixed + ours.per_work * work)
    for fixed, per_work in itertools.product((-0.01, 0, 0.01), repeat=2):
      line = ours.fixed + fixed + (ours.per_work + per_work) * work
      self.assertGreaterEqual(squares(line), best)
    self.assertBetween(np.abs(ours.residuals).max(), 5, 8)

  def test_quadratic_cost_does_not_hold(self):
    """Time in proportion to the square, as a loop in a loop would take."""
    row = scaling.row(entry([1.0, 4.0, 16.0, 64.0]))
    self.assertFalse(row.holds)
    self.assertGreater(row.value, 15)

  @parameterized.parameters(
    ([1.0, 2.0, 4.0, 8.0], True),
    ([1.0, 2.0, 4.0, 16.0], False),
    ([9.0, 10.0, 12.0, 16.0], True),  # Work makes half of the last.
    ([9.2, 10.2, 12.2, 16.2], False),
    ([1.0, 1.0, 1.0, 1.0], False),  # Affine, but of no work.
  )
  def test_a_line_must_be_straight_and_of_work(self, seconds, holds):
    # A hair above, since half is met to rounding.
    seconds = np.array(seconds) + 1e-9 * np.array([1, 2, 4, 8])
    self.assertEqual(scaling.row(entry(seconds)).holds, holds)

  def test_multiply_adds_may_be_farther_off(self):
    times = np.array([1.0, 2.0, 4.0, 8.0]) * (1 + 0.1 * np.array([1, -1, 1, 1]))
    worst = scaling.row(entry(times)).value
    self.assertBetween(worst, 10, 15)
    self.assertFalse(scaling.row(entry(times)).holds)
    self.assertTrue(scaling.row(entry(times, scaling.MULTIPLY_ADDS)).holds)


class RoundsTest(parameterized.TestCase):
  def measure(self, disturbed):
    """Measures with a fake clock, on which a run takes as long as its work.

    Args:
      disturbed: in which rounds four chains take half as long again; round 0
        compiles.
    """
    now = [0.0]

    def call(size):
      rounds = itertools.count()

      def run():
        number = next(rounds)
        seconds = 1e-9 * runs.multiply_adds(size)
        if number == 0:
          seconds += 30
        if number in disturbed and size.num_chains == 4:
          seconds *= 1.5
        now[0] += seconds

      return run

    with mock.patch.object(runs, 'call', call):
      with mock.patch.object(scaling.time, 'perf_counter', lambda: now[0]):
        return scaling.measure(scaling.FULL)

  @parameterized.parameters(
    ((), 4, True),
    ((1, 2, 3), 4, True),
    ((1, 2, 3, 4), 5, True),
    (range(100), scaling.FULL.most_rounds, False),
  )
  def test_rounds_are_added_while_a_time_is_off(self, disturbed, count, holds):
    records = self.measure(disturbed)
    rows = {entry['knob']: scaling.row(entry) for entry in records}
    self.assertEqual({len(r) for x in records for r in x['rounds']}, {count})
    self.assertEqual(rows.pop('chains').holds, holds)
    for row in rows.values():
      self.assertTrue(row.holds)
      self.assertLess(row.value, 1e-6)  # Percent; compilation is not in it.


if __name__ == '__main__':
  absltest.main()
