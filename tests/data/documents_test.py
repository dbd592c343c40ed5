"""A text alone decides its side; nothing is kept twice; caps cap."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized

from rllc_jax.data import documents


def texts(name, count):
  return [f'{name} {i:05d} '.ljust(60, 'x') for i in range(count)]


def source(name, given):
  return documents.Source(name, 'none', None, lambda: iter(given))


def missing(name):
  def read():
    raise documents.MissingSource('needs `pip install nothing==1`')
    yield

  return documents.Source(name, 'none', 'nothing==1', read)


def collect(sources, further=(), cap_bytes=1e9, fraction=0.2):
  return documents.collect(
    sources, further, cap_bytes=cap_bytes, held_out_fraction=fraction
  )


def side(collection):
  return {document.text: document.split for document in collection.documents}


class SplitTest(parameterized.TestCase):
  def test_a_side_does_not_depend_on_what_else_is_there(self):
    a, b = source('a', texts('a', 200)), source('b', texts('b', 200))
    alone, together = side(collect([a])), side(collect([b, a]))
    self.assertEqual(alone, {text: together[text] for text in alone})

  def test_a_larger_fraction_holds_out_the_same_and_more(self):
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
    found = collect(
      [source('a', texts('a', 50))], [source('f', texts('f', 50))]
    )
    splits = {d.split for d in found.documents if d.domain == 'f'}
    self.assertEqual(splits, {'held_out'})
    self.assertEqual(found.domains['f']['held_out_documents'], 50)
    self.assertTrue(found.domains['f']['further'])
    self.assertFalse(found.domains['a']['further'])


class CollectTest(parameterized.TestCase):
  def test_a_text_is_kept_once_under_the_first_source_that_has_it(self):
    same = texts('same', 30)
    found = collect(
      [source('a', same), source('b', [f'  {x}\n' for x in same] * 2)],
      [source('f', same[:5] + texts('f', 3))],
    )
    kept = [document.text for document in found.documents]
    self.assertCountEqual(kept, same + texts('f', 3))
    self.assertEqual(found.domains['a']['documents'], 30)
    self.assertEqual(found.domains['b']['documents'], 0)
    self.assertEqual(found.domains['b']['duplicates_dropped'], 60)
    self.assertEqual(found.domains['f']['duplicates_dropped'], 5)

  def test_documents_below_forty_characters_are_dropped(self):
    given = ['a' * 39, ' ' * 30 + 'b' * 39, 'c' * 40, *texts('a', 30)]
    found = collect([source('a', given)])
    self.assertEqual(found.domains['a']['short_dropped'], 2)
    self.assertEqual(found.domains['a']['documents'], 31)

  @parameterized.parameters(600, 601, 659, 660)
  def test_the_cap_is_exceeded_by_less_than_a_document(self, cap):
    endless = (f'{i:060d}' for i in itertools.count())
    found = collect([source('a', endless)], cap_bytes=cap, fraction=0.5)
    record = found.domains['a']
    self.assertEqual(record['documents'], -(-cap // 60))  # The ceiling.
    self.assertEqual(record['bytes'], 60 * record['documents'])
    self.assertTrue(record['capped'])

  def test_bytes_are_of_utf8(self):
    found = collect([source('a', [*texts('a', 30), 'é' * 40])])
    self.assertEqual(found.domains['a']['bytes'], 30 * 60 + 80)

  def test_the_hash_is_of_a_set(self):
    def sha256(given):
      return collect([source('a', given)]).domains['a']['sha256']

    given = texts('a', 50)
    self.assertEqual(sha256(given), sha256(given[::-1]))
    self.assertNotEqual(sha256(given), sha256(given[1:]))

  def test_a_missing_source_is_named_and_passed_over(self):
    found = collect([missing('m'), source('a', texts('a', 50))], [missing('f')])
    self.assertEqual(set(found.skipped), {'m', 'f'})
    self.assertIn('nothing==1', found.skipped['m'])
    self.assertEqual(list(found.domains), ['a'])

  def test_no_text_at_all_is_an_error_that_names_what_was_skipped(self):
    with self.assertRaisesRegex(ValueError, 'got 0 documents.*m was skipped'):
      collect([missing('m')])

  def test_further_domains_cannot_stand_in_for_the_mix(self):
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
  def test_senseless_settings(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      collect([source('a', texts('a', 50))], **settings)

  def test_two_sources_of_one_name(self):
    with self.assertRaisesRegex(ValueError, 'got a more than once'):
      collect([source('a', [])], [source('a', [])])


class OrderTest(parameterized.TestCase):
  def test_scatter_permutes_and_forgets_the_given_order(self):
    names = texts('a', 100)
    scattered = documents.scatter(names, str)
    self.assertCountEqual(scattered, names)
    self.assertNotEqual(scattered, names)
    self.assertEqual(documents.scatter(names[::-1], str), scattered)

  @parameterized.parameters('', 'no end', 'a\n', '\n\n', 'ab\n' * 50, 'x' * 99)
  def test_passages_joined_are_the_text(self, text):
    cut = list(documents.passages(text, 10))
    self.assertEqual(''.join(cut), text)
    for passage in cut[:-1]:
      self.assertEndsWith(passage, '\n')
      self.assertBetween(len(passage), 10, 12)  # Lines here have three or less.


if __name__ == '__main__':
  absltest.main()
