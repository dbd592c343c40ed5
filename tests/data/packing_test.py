"""Packing drops only a remainder; windows tile; entropies are exact."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from rllc_jax import checked_files
from rllc_jax import types
from rllc_jax.data import packing

EOS = 99


def documents(seed=0, count=30):
  generator = np.random.default_rng(seed)
  return [
    generator.integers(0, EOS, length)
    for length in generator.integers(0, 20, count)
  ]


def corpus(vocab_size=100):
  rows = lambda seed: packing.pack(documents(seed), 8, EOS)
  return packing.arrange(
    {'a': rows(0), 'b': rows(1)},
    {'a': rows(2)[:3], 'b': rows(3)[:0]},
    {'f': rows(4)[:2], 'g': rows(5)[:0]},
    vocab_size=vocab_size,
    eos_id=EOS,
  )


class PackTest(parameterized.TestCase):
  @parameterized.parameters(2, 3, 8, 64, 200)
  def test_rows_read_in_order_are_the_joined_documents(self, length):
    rows = packing.pack(documents(), length, EOS)
    stream = [t for d in documents() for t in (*d, EOS)][
      :-1
    ]  # No token after the last document.
    np.testing.assert_array_equal(
      rows[:, 1:].ravel(), stream[: rows[:, 1:].size]
    )
    self.assertBetween(len(stream) - rows[:, 1:].size, 0, length - 2)
    np.testing.assert_array_equal(rows[:, 0], EOS)
    self.assertEqual(rows.shape[1], length)

  def test_no_documents_give_no_rows(self):
    self.assertEqual(packing.pack([], 8, EOS).shape, (0, 8))

  def test_a_row_of_one_token_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least 2.*got 1'):
      packing.pack(documents(), 1, EOS)


class ArrangeTest(parameterized.TestCase):
  def test_windows_tile_the_rows(self):
    tokens, windows, _, _ = corpus()
    parts = [w for name, w in windows.items() if '/' in name]
    stop = 0
    for window in parts:
      self.assertEqual(window.start, stop)
      stop += window.length
    self.assertLen(tokens, stop)

  def test_windows_hold_their_rows(self):
    tokens, windows, _, _ = corpus()
    for name, seed, count in (
      ('train/a', 0, None),
      ('train/b', 1, None),
      ('held_out/a', 2, 3),
      ('held_out/f', 4, 2),
    ):
      start, length = windows[name]
      np.testing.assert_array_equal(
        tokens[start : start + length],
        packing.pack(documents(seed), 8, EOS)[:count],
        err_msg=name,
      )

  def test_splits_hold_the_mix_and_no_further_domain(self):
    windows = corpus().windows
    train = windows['train/a'].length + windows['train/b'].length
    self.assertEqual(windows['train'], types.Window(0, train))
    self.assertEqual(windows['held_out'], types.Window(train, 3))
    self.assertEqual(windows['held_out/f'], types.Window(train + 3, 2))

  def test_a_domain_without_rows_has_no_window(self):
    self.assertEqual(
      set(corpus().windows),
      {'train', 'held_out', 'train/a', 'train/b', 'held_out/a', 'held_out/f'},
    )

  def test_windows_are_python_integers(self):
    for window in corpus().windows.values():
      self.assertEqual([type(x) for x in window], [int, int])

  @parameterized.parameters(
    (100, np.uint16), (65_536, np.uint16), (65_537, np.int32)
  )
  def test_tokens_have_the_smallest_type_for_all_ids(self, vocab_size, dtype):
    self.assertEqual(corpus(vocab_size).tokens.dtype, dtype)
    self.assertGreaterEqual(np.iinfo(dtype).max, vocab_size - 1)

  @parameterized.parameters(('train', 'smaller'), ('held_out', 'larger'))
  def test_a_context_longer_than_the_data_is_refused(self, short, than):
    rows = {'a': packing.pack(documents(), 8, EOS)}
    none = {'a': packing.pack(documents()[:1], 64, EOS)}
    with self.assertRaisesRegex(
      ValueError,
      f'one row of 64 tokens in {short!r}.*shorter context_length'
      f'.* a {than} held_out_fraction',
    ):
      packing.arrange(
        none if short == 'train' else rows,
        none if short == 'held_out' else rows,
        {},
        vocab_size=100,
        eos_id=EOS,
      )


def sealed(content):
  return json.dumps({**content, 'checksum': checked_files.checksum(content)})


class SaveTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enterContext(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(directory) / 'corpus'
    packing.save_corpus(self.path, corpus(), {'source': 'here'})

  def test_a_saved_corpus_loads_unchanged(self):
    loaded = packing.load_corpus(self.path)
    np.testing.assert_array_equal(loaded.tokens, corpus().tokens)
    self.assertEqual(loaded.tokens.dtype, np.uint16)
    self.assertEqual(loaded[1:], corpus()[1:])
    self.assertIsInstance(loaded.windows['train'], types.Window)
    record = packing.load_record(self.path)
    self.assertEqual(record['provenance'], {'source': 'here'})
    names = sorted(path.name for path in self.path.iterdir())
    self.assertEqual(names, ['corpus.json', 'tokens.npy'])

  @parameterized.named_parameters(
    ('one_bit', lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
    ('cut', lambda raw: raw[:-10]),
    ('empty', lambda raw: b''),
    ('type', lambda raw: raw.replace(b'<u2', b'<i2')),
  )
  def test_damaged_tokens_are_refused(self, change):
    path = self.path / 'tokens.npy'
    path.write_bytes(change(path.read_bytes()))
    with self.assertRaisesRegex(ValueError, 'tokens.npy: expected the CRC'):
      packing.load_corpus(self.path)

  def test_absent_tokens_are_refused(self):
    (self.path / 'tokens.npy').unlink()
    with self.assertRaisesRegex(ValueError, 'tokens.npy: expected'):
      packing.load_corpus(self.path)

  @parameterized.parameters(
    ('{', 'a JSON object'),
    ('3', 'a JSON object'),
    (json.dumps({'windows': {}}), 'not as it was written'),
    (sealed({'windows': {}}), 'without shape, vocab_size, eos_id'),
  )
  def test_a_damaged_record_is_refused(self, text, message):
    (self.path / 'corpus.json').write_text(text)
    with self.assertRaisesRegex(
      ValueError, f'corpus.json: expected.*{message}'
    ):
      packing.load_corpus(self.path)

  def test_an_absent_record_is_refused(self):
    (self.path / 'corpus.json').unlink()
    with self.assertRaisesRegex(ValueError, 'got no such file'):
      packing.load_corpus(self.path)


def table_entropies(rows, size):
  """Both entropies from a dense table of pairs."""
  pairs = np.zeros((size, size))
  np.add.at(pairs, (rows[:, :-1], rows[:, 1:]), 1)
  joint = pairs / pairs.sum()
  with np.errstate(divide='ignore', invalid='ignore'):
    conditional = joint / joint.sum(axis=1, keepdims=True)
    bigram = -np.nansum(joint * np.log(conditional))
    marginal = joint.sum(axis=0)
    unigram = -np.nansum(marginal * np.log(marginal))
  return unigram, bigram


class EntropyTest(parameterized.TestCase):
  def both(self, rows, start=0, length=None):
    window = types.Window(start, len(rows) if length is None else length)
    return (
      packing.unigram_entropy(rows, window),
      packing.bigram_entropy(rows, window),
    )

  def test_entropies_of_three_rows_by_hand(self):
    """After 9: 0, 0, 1. After 0: 0, 1. After 1: 0. Targets: four 0, two 1."""
    rows = np.array([[9, 0, 0], [9, 0, 1], [9, 1, 0]], np.uint16)
    thirds = np.log(3) - 2 / 3 * np.log(2)  # Entropy of (2/3, 1/3).
    np.testing.assert_allclose(
      self.both(rows), (thirds, 3 / 6 * thirds + 2 / 6 * np.log(2)), rtol=1e-12
    )

  def test_a_cycle_has_uniform_unigrams_and_no_bigram_entropy(self):
    rows = np.stack([(np.arange(8 * 5 + 1) + i) % 8 for i in range(8)])
    unigram, bigram = self.both(rows.astype(np.uint16))
    self.assertAlmostEqual(unigram, np.log(8), places=12)
    self.assertAlmostEqual(bigram, 0, places=12)

  @parameterized.parameters(
    (1, 0), (257, 0), (32_767, 0), (70_001, 0), (2**29, 0), (1, 2**30)
  )
  def test_renaming_tokens_keeps_the_entropies(self, stride, offset):
    rows = np.random.default_rng(0).integers(0, 2, (50, 9)) ** 2
    rows[:, 1:] += rows[:, :-1]  # Ids 0 to 2, and not independent.
    renamed = rows * stride + offset
    dtype = np.uint16 if renamed.max() < 2**16 else np.int32
    np.testing.assert_allclose(
      self.both(renamed.astype(dtype)), table_entropies(rows, 3), rtol=1e-12
    )

  def test_entropies_of_random_rows_agree_with_a_dense_table(self):
    rows = np.random.default_rng(1).zipf(1.5, (40, 30)).clip(max=200)
    rows = rows.astype(np.uint16)
    np.testing.assert_allclose(
      self.both(rows, 10, 20), table_entropies(rows[10:30], 201), rtol=1e-12
    )


class SaidTwiceTest(parameterized.TestCase):
  @parameterized.parameters(8, 9)
  def test_halves_of_a_row_are_equal_after_its_first_token(self, length):
    rows = packing.pack(documents(), length, EOS)
    twice = packing.said_twice(rows)
    self.assertEqual(twice.shape, rows.shape)
    half = length // 2
    np.testing.assert_array_equal(twice[:, : 1 + half], rows[:, : 1 + half])
    again = twice[:, 1 + half :]
    np.testing.assert_array_equal(again, rows[:, 1 : 1 + again.shape[1]])

  def test_a_window_of_such_rows_follows_all_others(self):
    plain = corpus()
    more = packing.with_rows_said_twice(plain, ['train', 'held_out/f'])
    window = more.windows['train_twice']
    self.assertEqual(window.start, len(plain.tokens))
    rows = more.tokens[window.start : window.start + window.length]
    train = plain.windows['train']
    np.testing.assert_array_equal(
      rows, packing.said_twice(plain.tokens[: train.length])
    )
    self.assertEqual(more.windows['held_out/f_twice'].length, 2)
    np.testing.assert_array_equal(
      more.tokens[: len(plain.tokens)], plain.tokens
    )

  def test_an_unknown_window_is_refused(self):
    with self.assertRaisesRegex(ValueError, "said_twice must name .*got 'x'"):
      packing.with_rows_said_twice(corpus(), ['x'])


if __name__ == '__main__':
  absltest.main()
