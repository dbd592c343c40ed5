"""Estimates agree with exact values, and wrong ones are detected."""

import functools
import json
import pathlib
import tempfile

from absl.testing import absltest
import pytest

from experiments.checks import known_answers
from experiments.checks import known_problems
from rllc_jax.truth import two_layer_linear


@functools.cache
def every_problem():
  """All problems but the two deepest, whose exact value takes seconds."""
  shallow = (
    known_problems.bowls,
    known_problems.powers,
    known_problems.crossings,
    known_problems.two_layers,
  )
  deep = known_problems.deep_networks(quick=True)
  return [p for family in shallow for p in family(quick=False)] + [*deep]


@pytest.mark.long
class QuickRunTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(directory) / 'new'
    cls.rows = known_answers.run(cls.workdir, quick=True)
    path = cls.workdir / 'known_answers.json'
    cls.records = json.loads(path.read_text())['records']

  def test_every_estimate_agrees(self):
    """Within 4 standard errors, which are themselves small."""
    for record in self.records:
      with self.subTest(record['problem']):
        self.assertTrue(record['holds'], msg=record)
        error = record['standard_error']
        self.assertLess(error, 0.03 * record['exact'])
        self.assertLess(abs(record['llc'] - record['exact']), 4 * error)
        self.assertLess(record['low'], record['llc'])
        self.assertLess(record['llc'], record['high'])

  def test_every_family_is_sampled(self):
    self.assertLen({record['family'] for record in self.records}, 5)
    self.assertIn(True, {record['restricted'] for record in self.records})

  def test_the_json_file_holds_the_rows(self):
    judged = [row for row in self.rows if row.holds is not None]
    self.assertEqual(
      [(row.name, row.value) for row in judged],
      [(record['problem'], record['llc']) for record in self.records],
    )
    for row in judged:
      self.assertRegex(row.target, 'within 4 SE of .*, SE at most [13] %')
      self.assertRegex(row.note, r'λ .*, m \d+; SE .*; .* s')

  def test_lambda_is_approached_and_not_judged(self):
    reported = [row for row in self.rows if row.holds is None]
    self.assertLen(reported, 5)
    curves = json.loads((self.workdir / 'approach.json').read_text())
    for curve in curves['records']:
      self.assertEqual(curve['exact'], sorted(curve['exact']))
      self.assertLess(curve['exact'][-1], curve['learning_coefficient'])

  def test_figures_are_written(self):
    for name in ('known_answers.png', 'approach.png'):
      head = (self.workdir / name).read_bytes()[:4]
      self.assertEqual(head, b'\x89PNG')


class VerdictTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.problem = next(known_problems.bowls(quick=True))

  def test_a_wrong_exact_value_does_not_hold(self):
    self.assertTrue(known_answers.estimate(self.problem).holds)
    wrong = self.problem._replace(exact=1.05 * self.problem.exact)
    self.assertFalse(known_answers.estimate(wrong).holds)

  def test_a_wide_error_does_not_hold(self):
    sharp = self.problem._replace(largest_error=1e-4)
    self.assertFalse(known_answers.estimate(sharp).holds)

  def test_a_problem_without_exact_value_is_not_judged(self):
    unknown = self.problem._replace(exact=None)
    self.assertIsNone(known_answers.estimate(unknown).holds)


class ProblemsTest(absltest.TestCase):
  def test_labels_which_seed_the_noise_are_unique(self):
    labels = [known_answers.label(problem) for problem in every_problem()]
    self.assertLen(set(labels), len(labels))
    self.assertGreater(len(labels), 20)

  def test_every_family_has_a_restricted_case(self):
    families = {problem.family for problem in every_problem()}
    restricted = {p.family for p in every_problem() if p.moves is not None}
    self.assertEqual(restricted, families)

  def test_flat_directions_have_50_relaxation_times(self):
    """At 0 all directions are flat: 50 relaxation times, 10 of burn-in."""
    at_zero = [
      problem
      for problem in every_problem()
      if problem.name in ('2→2→2 at 0', '5→3→5 at 0', '4→4→4 at 0')
    ]
    self.assertLen(at_zero, 9)
    for problem in at_zero:
      sampling = problem.sampling
      rate = sampling.step_size * sampling.localization
      self.assertGreaterEqual(round(rate * sampling.num_steps, 6), 100)
      self.assertGreaterEqual(round(rate * sampling.burn_in, 6), 20)

  def test_expected_values_have_the_bias_of_the_step_size(self):
    problem = next(p for p in every_problem() if p.name == '2→2→2 at 0')
    without = two_layer_linear.at_zero((2, 2, 2), problem.sampling.posterior)
    # 0.7 %: a long run would fail without it.
    self.assertGreater(problem.exact, 1.005 * without)


if __name__ == '__main__':
  absltest.main()
