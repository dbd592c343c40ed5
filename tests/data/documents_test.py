"""Splits depend on texts alone, duplicates are dropped, caps are obeyed."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized

from rllc_jax.data import documents


def texts(name, count):
  return [f'{name} {i:05d} '.ljust(60, 'x') for i in range(count)]


def source(name, source_texts):
  return documents.Source(name, 'none', None, lambda: iter(source_texts))


def missing(name):
  def read():
    raise documents.MissingSource('needs `pip install nothing==1`')
    yield

  return documents.Source(name, 'none', 'nothing==1', read)


def collect(sources, further=(), cap_bytes=1e9, fraction=0.2, **lengths):
  return documents.collect(
    sources, further, cap_bytes=cap_bytes, held_out_fraction=fraction, **lengths
  )


def side(collection):
  return {document.text: document.split for document in collection.documents}


class SplitTest(parameterized.TestCase):
  def test_a_split_does_not_depend_on_other_documents(self):
    a, b = source('a', texts('a', 200)), source('b', texts('b', 200))
    alone, together = side(collect([a])), side(collect([b, a]))
    self.assertEqual(alone, {text: together[text] for text in alone})

  def test_a_larger_fraction_holds_out_a_superset(self):
    keys = [documents.content_key(text) for text in texts('a', 10_000)]
    small, large = (
      {key for key in keys if documents.is_held_out(key, fraction)}
      for fraction in (0.05, 0.2)
    )
    self.assertLess(small, large)
    # Four standard deviations of a binomial: 4 sqrt(p (1 - p) / 10,000).
    self.assertAlmostEqual(len(small) / 10_000, 0.05, delta=0.0087)
    self.assertAlmostEqual(len(large) / 10_000, 0.2, delta=0.016)

  def test_further_domains_are_held_out_whole(self):
    collection = collect(
      [source('a', texts('a', 50))], [source('f', texts('f', 50))]
    )
    splits = {d.split for d in collection.documents if d.domain == 'f'}
    self.assertEqual(splits, {'held_out'})
    self.assertEqual(collection.domains['f']['held_out_documents'], 50)
    self.assertTrue(collection.domains['f']['further'])
    self.assertFalse(collection.domains['a']['further'])


class CollectTest(parameterized.TestCase):
  def test_a_repeated_text_stays_once_under_its_first_source(self):
    same = texts('same', 30)
    collection = collect(
      [source('a', same), source('b', [f'  {x}\n' for x in same] * 2)],
      [source('f', same[:5] + texts('f', 3))],
    )
    remaining = [document.text for document in collection.documents]
    self.assertCountEqual(remaining, same + texts('f', 3))
    self.assertEqual(collection.domains['a']['documents'], 30)
    self.assertEqual(collection.domains['b']['documents'], 0)
    self.assertEqual(collection.domains['b']['duplicates_dropped'], 60)
    self.assertEqual(collection.domains['f']['duplicates_dropped'], 5)

  def test_documents_below_forty_characters_are_dropped(self):
    given_texts = ['a' * 39, ' ' * 30 + 'b' * 39, 'c' * 40, *texts('a', 30)]
    collection = collect([source('a', given_texts)])
    self.assertEqual(collection.domains['a']['short_dropped'], 2)
    self.assertEqual(collection.domains['a']['documents'], 31)

  @parameterized.parameters(1, 10, 61)
  def test_texts_below_min_characters_are_dropped(self, least):
    rows = ['a' * (least - 1), 'b' * least, *texts('a', 30)]
    rows = [text.ljust(least, '.') for text in rows[1:]] + rows[:1]
    collection = collect([source('a', rows)], min_characters=least)
    self.assertEqual(collection.domains['a']['short_dropped'], 1)
    self.assertEqual(collection.domains['a']['documents'], 31)

  def test_rows_without_text_are_dropped_and_counted(self):
    collection = collect([source('a', [None, *texts('a', 30), None])])
    self.assertEqual(collection.domains['a']['nulls_dropped'], 2)
    self.assertEqual(collection.domains['a']['documents'], 30)

  def test_only_documents_above_max_characters_are_cut(self):
    whole, longer = 'a ' * 250, 'b ' * 250 + 'b.'
    given_texts = [f'{whole}.', longer, *texts('a', 30)]
    collection = collect([source('a', given_texts)], max_characters=501)
    remaining = [x.text for x in collection.documents]
    self.assertEqual(remaining[0], f'{whole}.')
    self.assertEqual(remaining[1:3], [('b ' * 250).strip(), *texts('a', 1)])
    self.assertEqual(collection.domains['a']['oversized_cut'], 1)
    self.assertEqual(collection.domains['a']['short_dropped'], 1)

  def test_a_long_book_is_cut_into_both_splits(self):
    book = ' '.join(f'word{i}' for i in range(400_000))
    collection = collect(
      [source('a', [book])], max_characters=10_000, fraction=0.2
    )
    self.assertGreater(collection.domains['a']['documents'], 300)
    words = [word for x in collection.documents for word in x.text.split()]
    self.assertEqual(words, book.split())

  def test_a_cut_part_that_another_source_has_is_a_duplicate(self):
    part = 'the same words in each of two sources, '
    collection = collect(
      [source('a', [part * 3, *texts('a', 30)]), source('b', [part * 30])],
      max_characters=len(part) * 3,
    )
    self.assertEqual(collection.domains['b']['duplicates_dropped'], 10)

  @parameterized.parameters(
    (dict(min_characters=0), 'at least 1, because.*got 0'),
    (dict(min_characters=-3), 'at least 1, because.*got -3'),
    (dict(min_characters=2.5), 'min_characters must be a whole number'),
    (dict(max_characters=79), 'twice min_characters.*max_characters=79'),
    (dict(max_characters='many'), 'max_characters must be a whole number'),
  )
  def test_invalid_lengths_are_refused(self, lengths, message):
    with self.assertRaisesRegex(ValueError, message):
      collect([source('a', texts('a', 50))], **lengths)

  @parameterized.parameters(600, 601, 659, 660)
  def test_the_cap_is_exceeded_by_less_than_a_document(self, cap):
    endless = (f'{i:060d}' for i in itertools.count())
    collection = collect([source('a', endless)], cap_bytes=cap, fraction=0.5)
    record = collection.domains['a']
    self.assertEqual(record['documents'], -(-cap // 60))  # The ceiling.
    self.assertEqual(record['bytes'], 60 * record['documents'])
    self.assertTrue(record['capped'])

  def test_bytes_are_counted_in_utf8(self):
    collection = collect([source('a', [*texts('a', 30), 'é' * 40])])
    self.assertEqual(collection.domains['a']['bytes'], 30 * 60 + 80)

  def test_the_hash_ignores_the_order_of_documents(self):
    def sha256(given_texts):
      return collect([source('a', given_texts)]).domains['a']['sha256']

    given_texts = texts('a', 50)
    self.assertEqual(sha256(given_texts), sha256(given_texts[::-1]))
    self.assertNotEqual(sha256(given_texts), sha256(given_texts[1:]))

  def test_a_missing_source_is_skipped_with_its_reason(self):
    collection = collect(
      [missing('m'), source('a', texts('a', 50))], [missing('f')]
    )
    self.assertEqual(set(collection.skipped), {'m', 'f'})
    self.assertIn('nothing==1', collection.skipped['m'])
    self.assertEqual(list(collection.domains), ['a'])

  def test_an_error_without_text_names_skipped_sources(self):
    with self.assertRaisesRegex(ValueError, 'got 0 documents.*m was skipped'):
      collect([missing('m')])

  @parameterized.parameters(*itertools.product(range(2, 12), (1e-6, 0.999999)))
  def test_the_proposed_fraction_gives_two_splits(self, count, fraction):
    sources = [source('a', texts(f'{count}', count))]
    with self.assertRaisesRegex(ValueError, 'Set held_out_fraction') as error:
      collect(sources, fraction=fraction)
    message = str(error.exception)
    proposed = message.split('held_out_fraction) to ')[1].split(',')[0]
    collection = collect(sources, fraction=float(proposed))
    self.assertLen({x.split for x in collection.documents}, 2)
    # Nearest: a step of 0.01 towards the wanted fraction empties a split.
    smaller = 'held_out' if fraction < 0.5 else 'train'
    hundredths = round(float(proposed) * 100)
    if hundredths / 100 == float(proposed):
      nearer = (hundredths - (1 if fraction < 0.5 else -1)) / 100
      if 0 < nearer < 1:
        splits = {
          'held_out' if documents.is_held_out(x.key, nearer) else 'train'
          for x in collection.documents
        }
        self.assertNotIn(smaller, splits)

  @parameterized.parameters(0, 1)
  def test_fewer_than_two_documents_cannot_be_split(self, count):
    with self.assertRaisesRegex(ValueError, 'Add text, because.*two documents'):
      collect([source('a', texts('a', count))])

  def test_an_empty_split_error_counts_dropped_texts(self):
    given_texts = ['short', None, None, *texts('a', 1) * 2]
    with self.assertRaisesRegex(
      ValueError, r'\(1 too short, 1 repeated, 2 null\)'
    ):
      collect([source('a', given_texts)])

  @parameterized.parameters((0.05, 0.08), (0.99, 0.93))
  def test_a_proposed_fraction_has_two_digits_if_possible(self, fraction, near):
    keys = ['14' + '0' * 30, 'f0' + '0' * 30]  # At 0.078125 and 0.9375.
    pair = [documents.Document(key, 'a', '', '') for key in keys]
    self.assertEqual(documents.splitting_fraction(pair, fraction), near)

  def test_close_hashes_are_split_by_a_short_fraction_or_not(self):
    keys = ['8' * 32, '8' * 8 + '9' * 24]
    pair = [documents.Document(key, 'a', '', '') for key in keys]
    fraction = documents.splitting_fraction(pair, 0.2)
    self.assertTrue(documents.is_held_out(keys[0], fraction))
    self.assertFalse(documents.is_held_out(keys[1], fraction))
    self.assertLess(len(str(fraction)), 14)
    # No float64 lies between these two, so none is proposed.
    close = ['8' * 32, '8' * 16 + '9' * 16]
    pair = [documents.Document(key, 'a', '', '') for key in close]
    self.assertIsNone(documents.splitting_fraction(pair, 0.2))

  def test_further_domains_do_not_fill_an_empty_split(self):
    with self.assertRaisesRegex(ValueError, "documents in 'train'"):
      collect([source('a', [])], [source('f', texts('f', 50))])
    with self.assertRaisesRegex(ValueError, "documents in 'held_out'"):
      collect(
        [source('a', texts('a', 9))],
        [source('f', texts('f', 50))],
        fraction=1e-9,
      )

  @parameterized.parameters(
    (dict(fraction=0.0), 'strictly between 0 and 1'),
    (dict(fraction=1.0), 'strictly between 0 and 1'),
    (dict(cap_bytes=0), 'must be positive'),
    (dict(cap_bytes=float('nan')), 'must be positive'),
  )
  def test_invalid_settings_are_refused(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      collect([source('a', texts('a', 50))], **settings)

  def test_two_sources_of_one_name_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'got a more than once'):
      collect([source('a', [])], [source('a', [])])


class OrderTest(parameterized.TestCase):
  def test_scatter_permutes_independently_of_the_given_order(self):
    names = texts('a', 100)
    scattered = documents.scatter(names, str)
    self.assertCountEqual(scattered, names)
    self.assertNotEqual(scattered, names)
    self.assertEqual(documents.scatter(names[::-1], str), scattered)

  @parameterized.parameters(
    ('', 10),
    ('one two three four', 10),
    ('one\ntwo three', 10),
    ('x' * 99, 10),
    ('x' * 100, 10),
    ('word ' * 99, 23),
    ('\u3000'.join('三' * 99), 10),
    (' ' * 99, 10),
    ('\n' * 99, 10),
    ('a\n' + 'b' * 99, 1),
  )
  def test_cuts_joined_are_the_text(self, text, most):
    parts = list(documents.cut(text, most))
    self.assertEqual(''.join(parts), text)
    self.assertLessEqual(max(map(len, parts)), most)
    for part in parts[:-1]:
      self.assertGreaterEqual(len(part), most / 2)

  @parameterized.parameters(
    ('aaa bb\ncc dd', 10, ['aaa bb\n', 'cc dd']),
    ('aaa bbbb cc', 10, ['aaa bbbb ', 'cc']),
    ('a\nbbbbb ccc d', 10, ['a\nbbbbb ', 'ccc d']),  # Not after 2 characters.
    ('aaaaaaaaaabb', 10, ['aaaaaaaaaa', 'bb']),
    ('aaaaaaaaa bb', 10, ['aaaaaaaaa ', 'bb']),
    ('aaaaaaaaaa bb', 10, ['aaaaaaaaaa', ' bb']),
    ('aaaaaa\u3000bbbbb', 10, ['aaaaaa\u3000', 'bbbbb']),
    ('aaaaaa\nbb\ncccc', 10, ['aaaaaa\nbb\n', 'cccc']),
  )
  def test_cuts_are_at_line_ends_then_at_spaces(self, text, most, parts):
    self.assertEqual(list(documents.cut(text, most)), parts)

  @parameterized.parameters('', 'no end', 'a\n', '\n\n', 'ab\n' * 50, 'x' * 99)
  def test_passages_joined_are_the_text(self, text):
    cut = list(documents.passages(text, 10))
    self.assertEqual(''.join(cut), text)
    for passage in cut[:-1]:
      self.assertEndsWith(passage, '\n')
      self.assertBetween(len(passage), 10, 12)  # Lines here have three or less.


if __name__ == '__main__':
  absltest.main()
