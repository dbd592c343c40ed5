"""Brackets and quotes close where they are open, and nowhere else."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from rllc_jax.analysis import brackets
from rllc_jax.data import synthetic

TEXT = [*'ab()[]{}<>"\'', '])', '\n', '\n)', '")', '>>', '<eos>']
WORDS = [*'ab()[]{}<>"\'', '])', 'first', '<<', '>>', '<eos>']


def closing(spellings, words, kind):
  ids = {text: i for i, text in enumerate(spellings)}
  special = ids['<eos>']
  row = np.array([special, *(ids[x] for x in words)])
  return brackets.closing(row, kind(spellings, special))


class TextTest(parameterized.TestCase):
  @parameterized.parameters(
    (['(', '[', 'a', ']', ')', ')'], {4: 2, 5: 1}),
    (['(', 'a', ']', ')'], {4: 1}),  # The wrong bracket closes nothing.
    (['(', '[', '])', ')'], {3: 2}),  # The first mark of a token decides.
    (['(', 'a', '<', 'b', '>', ')'], {6: 1}),  # Operators.
    (['<', '<', '>>'], {}),
    (['(', '"', 'a', '"', ')'], {4: 2, 5: 1}),
    (['(', '"', ')', '"', ')'], {4: 2, 5: 1}),  # A bracket inside a quote.
    (['"', "'", '"', "'", "'"], {3: 1, 5: 1}),  # The other quote inside one.
    (['(', '"', 'a', '")'], {4: 2}),
    (['(', "'", 'a', '\n', ')'], {5: 1}),  # A line end ends a quote,
    (['(', '\n', ')'], {3: 1}),  # and no bracket.
    (["'", 'a', '\n)', '('], {}),
    (['(', '[', '\n)', ']', '\n)'], {4: 2, 5: 1}),
    (['(', '[', '<eos>', ']', ')'], {}),  # A document's end.
    (['"', '<eos>', '(', ')'], {4: 1}),
  )
  def test_delimiters_of_text(self, words, expected):
    self.assertEqual(closing(TEXT, words, brackets.of_text), expected)


class WordsTest(parameterized.TestCase):
  @parameterized.parameters(
    (['<', '(', 'a', ')', '>'], {4: 2, 5: 1}),
    (['<', '<', '>>'], {}),  # Its whole spelling is no delimiter.
    (['<', '<<', 'a', '>>', '>'], {5: 1}),
    (['(', '[', '])', ']'], {4: 2}),
    (['(', '[', '<eos>', ']', ')'], {}),
    (['(', "'", 'a', "'", '"', 'b', '"', ')'], {4: 2, 7: 2, 8: 1}),
  )
  def test_delimiters_of_a_planted_language(self, words, expected):
    self.assertEqual(closing(WORDS, words, brackets.of_words), expected)

  def test_closings_of_a_planted_text_are_those_of_its_kinds(self):
    language = synthetic.LANGUAGES['planted2']
    spellings = [*synthetic.symbols(language), '<eos>']
    ids = {text: i for i, text in enumerate(spellings)}
    eos = ids['<eos>']
    text = synthetic.rows(
      language, ids, eos, np.random.default_rng(0), num_rows=64, length=96
    )
    depths = brackets.depths_of(text.tokens, brackets.of_words(spellings, eos))
    kinds = np.array([*synthetic.KINDS, ''])[text.kinds]
    closes = np.isin(kinds, ['bracket_nested', 'bracket_last', 'quote_close'])
    # Rows that begin inside a delimiter close what they never opened.
    is_whole = ~(closes & (text.sources < 0)).any(axis=1)
    self.assertGreater(is_whole.sum(), 20)
    depths, closes, kinds = (x[is_whole] for x in (depths, closes, kinds))
    np.testing.assert_array_equal(depths > 0, closes)
    self.assertTrue((depths[kinds == 'bracket_last'] == 1).all())
    for kind in ('bracket_nested', 'quote_close'):
      self.assertGreater(depths[kinds == kind].min(), 1)

  def test_a_row_that_begins_inside_a_quote_recovers_at_a_bracket(self):
    words = ['a', '"', '(', '"', 'b', '"', ')']
    self.assertEqual(closing(WORDS, words, brackets.of_words), {6: 2, 7: 1})


if __name__ == '__main__':
  absltest.main()
