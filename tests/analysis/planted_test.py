"""Words that heads serve, on rises of losses that are given."""

import numpy as np

from rllc_jax.analysis import planted
from rllc_jax.data import synthetic

LANGUAGE = synthetic.LANGUAGES['planted2']
SYMBOLS = [*synthetic.symbols(LANGUAGE), '<eos>']
IDS = {text: i for i, text in enumerate(SYMBOLS)}
KIND = {name: i for i, name in enumerate(synthetic.KINDS)}


def drawn(num_rows=256, length=96):
  return synthetic.rows(
    LANGUAGE,
    IDS,
    IDS['<eos>'],
    np.random.default_rng(0),
    num_rows=num_rows,
    length=length,
  )


def written(*rows):
  """Rows of 'symbol/kind/source', each after the special token."""
  fields = [[cell.split('/') for cell in row.split()] for row in rows]
  special = IDS['<eos>'], -1, -1
  tokens, kinds, sources = (
    np.array([[first, *(read(cell[i]) for cell in row)] for row in fields])
    for i, (first, read) in enumerate(
      zip(special, (IDS.get, KIND.get, int), strict=True)
    )
  )
  return synthetic.Rows(tokens, kinds, 0.0 * tokens, sources)


def effects_of(text, is_served, rise=1.0):
  """A head whose ablation costs so much where the mask [N, T] is True."""
  return (rise * is_served[:, 1:])[None, None]


WORD = 'b1/ngram_choice/-1 b2/ngram_choice/-1 b3/ngram/{0} b4/ngram/{1}'
ROW = WORD.format(1, 2) + ' s1/start/-1 ?/skip_filler/-1 t1/skip/5'


def count(text, effects):
  served = planted.true_multigrams(effects, text)
  return int(served.true_words[0, 0]), int(served.true_pairs[0, 0])


def test_a_word_counts_once_and_a_pair_once():
  text = written(*[ROW] * 4)
  ngram, skip = (text.kinds == KIND[x] for x in ('ngram', 'skip'))
  assert count(text, effects_of(text, ngram)) == (1, 0)
  assert count(text, effects_of(text, skip)) == (0, 1)
  assert count(text, effects_of(text, ngram | skip)) == (1, 1)
  # What a head does to other symbols is no word.
  assert count(text, effects_of(text, ~(ngram | skip))) == (0, 0)


def test_a_word_needs_four_occurrences_and_a_quarter_of_a_nat():
  text = written(*[ROW] * 4)
  everywhere = np.ones(text.tokens.shape, bool)
  few = written(*[ROW] * 3)
  assert count(few, effects_of(few, everywhere[:3])) == (0, 0)
  assert count(text, effects_of(text, everywhere, 0.25)) == (1, 1)
  assert count(text, effects_of(text, everywhere, 0.24)) == (0, 0)
  # Of a word the mean over the symbols that it determines.
  third = np.zeros(text.tokens.shape, bool)
  third[:, 3] = True
  assert count(text, effects_of(text, third, 0.5)) == (1, 0)
  assert count(text, effects_of(text, third, 0.49)) == (0, 0)


def test_a_mean_within_three_errors_is_no_word():
  text = written(*[ROW] * 4)
  effects = np.zeros((1, 1, 4, 7))
  effects[0, 0, :, 6] = [0, 0, 0, 4]  # 1 +- 1.
  assert count(text, effects) == (0, 0)
  # Of four occurrences 9.2 errors are as sure as three of many.
  effects[0, 0, :, 6] = [1.25, 1.75, 1.25, 1.75]  # 1.5 +- 0.14.
  assert count(text, effects) == (0, 1)
  effects[0, 0, :, 6] = [1, 2, 1, 2]  # 1.5 +- 0.29.
  assert count(text, effects) == (0, 0)
  many = written(*[ROW] * 40)
  effects = np.tile(np.array([0, 2] * 20)[:, None], 7)[None, None]
  assert count(many, effects) == (1, 1)  # 1 +- 0.16.


def test_a_source_before_the_row_is_no_occurrence():
  outside = 't1/skip/-1 b3/ngram/-1 b4/ngram/-1 ' + WORD.format(4, 5)
  text = written(*[outside] * 4)
  everywhere = np.ones(text.tokens.shape, bool)
  assert count(text, effects_of(text, everywhere)) == (1, 0)


def test_a_head_that_serves_all_has_all_words_of_the_language_that_are_met():
  text = drawn()
  serves = np.isin(text.kinds, [KIND['ngram'], KIND['skip']])
  words, pairs = count(text, effects_of(text, serves))
  firsts, _ = planted._words(effects_of(text, serves), text)
  _, met = np.unique(firsts, axis=0, return_counts=True)
  assert words == np.sum(met >= 4) > 100
  known = {tuple(x[:2]) for x in synthetic.tables(LANGUAGE).words}
  names = {(SYMBOLS[a], SYMBOLS[b]) for a, b in firsts}
  assert names <= {(f'b{a}', f'b{b}') for a, b in known}
  assert 50 < pairs <= LANGUAGE.num_skips
  # Noise as large as its mean is served by none.
  noise = np.random.default_rng(0).normal(size=(2, 3, 256, 95))
  served = planted.true_multigrams(noise, text)
  assert served.true_words.max() <= 2 and served.true_pairs.max() <= 1


def test_rises_are_sorted_by_kind_in_the_second_half():
  text = drawn(64)
  values = np.where(np.arange(96) < 48, 9.0, text.kinds / 4)[:, 1:]
  rises = planted.kind_rises(values[None, None], text)
  present = np.isin(np.arange(len(KIND)), text.kinds[:, 48:])
  assert present.sum() > 10
  expected = np.where(present, np.arange(len(KIND)) / 4, np.nan)
  np.testing.assert_allclose(rises.kind_rise[0, 0], expected)
  np.testing.assert_allclose(
    rises.kind_rise_error[0, 0].values[present], 0, atol=1e-12
  )
  # Rows that filled no minibatch have no effects.
  fewer = planted.kind_rises(values[None, None, :48], text)
  assert np.isfinite(fewer.kind_rise).sum() > 10
