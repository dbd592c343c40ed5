"""Corpora from files, in one process and from the command line."""

import gzip
import json
import pathlib
import re
import sys

import ml_collections
import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from experiments import build_corpus
from experiments.runtime import commands
from rllc_jax import checked_files
from rllc_jax.data import documents
from rllc_jax.data import mini_pile
from rllc_jax.data import packing
from rllc_jax.data import synthetic
from rllc_jax.data import tokenizers
from tests import binaries

ROOT = pathlib.Path(build_corpus.__file__).parents[1]


def text(domain, number):
  return f'<{domain}:{number}> ' + f'{domain} speaks of {number} things. ' * 5


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  root = tmp_path_factory.mktemp('files')
  paths = []
  for domain, count in (('sea', 80), ('land', 60)):
    path = root / f'{domain}.jsonl'
    lines = [json.dumps({'body': text(domain, i)}) for i in range(count)]
    path.write_text('\n'.join(lines))
    paths.append(str(path))
  return tuple(paths)


def config(paths, **changes):
  return ml_collections.config_dict.create(
    corpus=dict(
      sources=(),
      further=(),
      files=paths,
      text_field='body',
      cap_mb=1.0,
      held_out_fraction=0.25,
      vocab_size=300,
      context_length=16,
    )
    | changes
  )


@pytest.fixture(scope='module')
def workdir(files, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  build_corpus.run(config(files), workdir)
  return workdir


def marks(corpus, tokenizer, window):
  start, length = corpus.windows[window]
  rows = corpus.tokens[start : start + length, 1:]
  return set(
    re.findall('<[a-z]+:[0-9]+>', tokenizers.decode(tokenizer, rows.ravel()))
  )


@pytest.mark.parametrize('domain, count', [('sea', 80), ('land', 60)])
def test_every_document_is_in_the_window_that_its_text_decides(
  workdir, domain, count
):
  corpus = packing.load_corpus(workdir / 'corpus')
  tokenizer = tokenizers.load(workdir / 'corpus' / 'tokenizer.json')
  sides = {'train': set(), 'held_out': set()}
  for number in range(count):
    key = documents.content_key(documents.clean(text(domain, number)))
    split = 'held_out' if documents.is_held_out(key, 0.25) else 'train'
    sides[split].add(f'<{domain}:{number}>')
  for split, expected in sides.items():
    assert expected
    assert marks(corpus, tokenizer, f'{split}/{domain}') == expected
    assert marks(corpus, tokenizer, split) >= expected


def test_the_tokenizer_learns_from_training_documents_alone(tmp_path):
  words = {'train': 'wvjwvj', 'held_out': 'qzxqzx'}
  lines = []
  for number in range(400):
    for split, word in words.items():
      line = f'{number} ' + f'{word} ' * 10
      key = documents.content_key(documents.clean(line))
      if documents.is_held_out(key, 0.25) == (split == 'held_out'):
        lines.append(json.dumps({'body': line}))
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  corpus = build_corpus.run(
    config((str(tmp_path / 'a.jsonl'),)), tmp_path / 'run'
  )
  tokenizer = tokenizers.load(tmp_path / 'run' / 'corpus' / 'tokenizer.json')
  learned = ''.join(
    tokenizers.decode(tokenizer, [i]) for i in range(256, corpus.eos_id)
  )
  assert words['train'] in learned
  assert 'qz' not in learned and 'zx' not in learned


def test_sizes_and_the_special_token(workdir):
  corpus = packing.load_corpus(workdir / 'corpus')
  assert corpus.tokens.shape[1] == 16
  assert corpus.tokens.dtype == np.uint16
  assert (corpus.vocab_size, corpus.eos_id) == (300, 299)
  assert corpus.tokens.max() == 299
  np.testing.assert_array_equal(corpus.tokens[:, 0], 299)


def test_the_record_has_the_sources_of_the_text(workdir):
  record = packing.load_record(workdir / 'corpus')['provenance']
  assert record['python'] == '.'.join(map(str, sys.version_info[:3]))
  sea = record['domains']['sea']
  assert (sea['documents'], sea['further']) == (80, False)
  assert sea['bytes'] == sum(len(text('sea', i)) - 1 for i in range(80))
  assert record['settings']['vocab_size'] == 300
  assert (workdir / 'corpus' / record['documents']).is_dir()


def test_a_second_run_loads_the_finished_corpus(workdir, files):
  path = workdir / 'corpus' / 'tokens.npy'
  before = path.stat().st_mtime_ns
  corpus = build_corpus.run(config(files), workdir)
  assert path.stat().st_mtime_ns == before
  assert corpus.windows == packing.load_corpus(workdir / 'corpus').windows


def test_two_runs_give_the_same_tokens(workdir, files, tmp_path):
  again = build_corpus.run(config(files), tmp_path)
  first = packing.load_corpus(workdir / 'corpus')
  np.testing.assert_array_equal(again.tokens, first.tokens)
  assert again[1:] == first[1:]


def test_an_interrupted_run_is_completed(workdir, files, tmp_path):
  build_corpus.run(config(files), tmp_path)
  for name in 'corpus.json', 'tokens.npy', 'tokenizer.json':
    (tmp_path / 'corpus' / name).unlink()
  again = build_corpus.run(config(files), tmp_path)
  first = packing.load_corpus(workdir / 'corpus')
  np.testing.assert_array_equal(again.tokens, first.tokens)


@pytest.mark.parametrize(
  'changes',
  [dict(vocab_size=301), dict(cap_mb=2.0), dict(further=('wiki_fr',))],
)
def test_other_settings_are_refused_by_name(workdir, files, changes):
  [name] = changes
  with pytest.raises(ValueError, match=f'{name}=.*; got one with {name}='):
    build_corpus.run(config(files, **changes), workdir)


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(sources=('wiki_de',)), "among botocore_docs.*got 'wiki_de'"),
    (dict(further=('kvj',)), "among botocore_docs.*got 'kvj'"),
    (dict(text_field='text'), r'sea\.jsonl:1: .*the fields body'),
    (dict(vocab_size=100), 'at least 257'),
    (dict(context_length=1), 'at least 2'),
    (dict(context_length=100_000), 'one row of 100000 tokens'),
    (dict(held_out_fraction=1.5), 'strictly between'),
    (dict(capmb=1), 'have fields among.*got capmb'),
    (dict(files=()), 'got 0 documents'),
    (dict(nulls='drop'), 'one of refuse, skip'),
    (dict(files='a.jsonl'), r"a tuple of strings.*Write \('a.jsonl',\)"),
    (dict(min_characters=0), 'min_characters must be at least 1'),
    (dict(max_characters=50), 'at least twice min_characters'),
    (dict(files=('~/absent.jsonl',)), '/absent.jsonl: expected a file'),
    (dict(held_out_fraction=1e-9), 'Set held_out_fraction'),
    (dict(tfds_directory='/nowhere'), 'expected a prepared TFDS data set'),
  ],
)
def test_bad_settings_are_refused(files, tmp_path, changes, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    build_corpus.run(config(files, **changes), tmp_path)
  assert not (tmp_path / 'corpus' / 'corpus.json').exists()


def write_rows(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(map(json.dumps, rows)))
  return path


def test_files_folders_globs_and_fields_make_one_corpus(
  workdir, files, tmp_path, monkeypatch
):
  """The tokens of the two files, from their parts in other formats."""
  monkeypatch.setenv('HOME', str(tmp_path))
  sea = [text('sea', i) for i in range(80)]
  land = [text('land', i) for i in range(60)]
  nested = [{'page': {'body': x}} for x in sea[:30]]
  write_rows(tmp_path / 'shards' / '0.JSONL', nested)
  packed = gzip.compress(json.dumps([{'body': x} for x in sea[30:]]).encode())
  (tmp_path / 'shards' / 'x').mkdir()
  (tmp_path / 'shards' / 'x' / '1.json').write_bytes(packed)
  table = pa.table({'body': pa.array(land, pa.string_view())})
  (tmp_path / 'land').mkdir()
  parquet.write_table(table, tmp_path / 'land' / 'day=1.parquet')
  patterns = ('sea=~/shards/*#page.body', 'sea=~/shards/**/*.json', '~/land')
  corpus = build_corpus.run(config(patterns), tmp_path / 'run')
  expected = packing.load_corpus(workdir / 'corpus')
  np.testing.assert_array_equal(corpus.tokens, expected.tokens)
  domains = packing.load_record(tmp_path / 'run' / 'corpus')['provenance'][
    'domains'
  ]
  assert (domains['sea']['files'], domains['land']['files']) == (2, 1)


def test_dropped_documents_are_counted_in_the_table(tmp_path, caplog):
  rows = [{'body': text('sea', i)} for i in range(80)]
  rows += [{'body': None}] * 3 + [{}] * 2 + [{'body': 'short'}] * 4
  rows += rows[:6] + [{'body': 'word ' * 5_000}]
  path = write_rows(tmp_path / 'sea.jsonl', rows)
  settings = config((str(path),), nulls='skip', max_characters=10_000)
  with caplog.at_level('INFO'):
    build_corpus.run(settings, tmp_path / 'run')
  [printed] = [x for x in caplog.messages if 'complete\n' in x]
  heads, line = printed.splitlines()[1:]
  assert heads.split('  ')[0] == 'domain'
  counted = dict(
    zip(
      heads.replace('too short', 'too_short').split(),
      line.split(),
      strict=False,
    )
  )
  expected = {'files': 1, 'documents': 82, 'too_short': 4, 'null': 5, 'cut': 1}
  # Of the three parts of the long one two are the same.
  assert {x: int(counted[x]) for x in expected} == expected
  assert int(counted['repeated']) == 7


def test_columns_of_the_table_stay_below_their_heads():
  record = {
    'files': 12_345,
    'documents': 10_000_000,
    'bytes': 5e11,
    'train_tokens': 99_999_999_999,
    'held_out_tokens': 99_999_999_999,
    'license': 'own',
    **dict.fromkeys(documents.DROPPED, 9_999),
  }
  domains = {'a_name_longer_than_sixteen_characters': record, 'b': record}
  lines = build_corpus.table(domains).splitlines()
  places = {line.index('  own') for line in lines[1:]}
  assert places == {lines[0].index('  license')}
  assert len(lines[1].split()) == 11


def test_minimum_length_is_a_setting(tmp_path):
  path = write_rows(tmp_path / 'a.jsonl', [{'body': f'{i}'} for i in range(99)])
  with pytest.raises(ValueError, match=r'\(99 too short\)'):
    build_corpus.run(config((str(path),)), tmp_path / 'run')
  settings = config((str(path),), min_characters=1)
  build_corpus.run(settings, tmp_path / 'run')
  record = packing.load_record(tmp_path / 'run' / 'corpus')['provenance']
  assert record['domains']['a']['documents'] == 99


def test_warning_names_a_fraction_that_holds_out_a_document(
  files, tmp_path, caplog
):
  key = lambda row: documents.content_key(documents.clean(row['body']))
  rows = [{'body': text('air', i)} for i in range(20)]
  rows = [x for x in rows if not documents.is_held_out(key(x), 0.25)]
  path = write_rows(tmp_path / 'air.jsonl', rows)
  build_corpus.run(config((*files, str(path))), tmp_path / 'run')
  [warning] = [x for x in caplog.messages if 'nothing of air is held out' in x]
  fraction = float(warning.split('held_out_fraction=')[1].split()[0])
  assert 0.25 < fraction < 1
  assert any(documents.is_held_out(key(row), fraction) for row in rows)


def test_a_source_with_a_missing_package_is_skipped(
  files, tmp_path, monkeypatch
):
  absent = documents.Source(
    'gone',
    'none',
    'no-such-package==1',
    lambda: iter(mini_pile.installed_files('no-such-package==1', '.json')),
  )
  monkeypatch.setitem(mini_pile.SOURCES, 'gone', absent)
  build_corpus.run(config(files, sources=('gone',)), tmp_path)
  record = packing.load_record(tmp_path / 'corpus')['provenance']
  assert 'pip install no-such-package==1' in record['skipped']['gone']
  assert set(record['domains']) == {'sea', 'land'}


def test_a_prepared_data_set_joins_the_mix(workdir, files, tmp_path):
  record = packing.load_record(workdir / 'corpus')['provenance']
  data_set = str(workdir / 'corpus' / record['documents'])
  corpus = build_corpus.run(
    config(files[:1], tfds_directory=data_set, tfds_split='held_out'), tmp_path
  )
  # Of its documents, those of `sea` are duplicates, and the same side stays.
  assert 'held_out/corpus' in corpus.windows
  assert 'train/corpus' not in corpus.windows


def call(tmp_path, *arguments):
  path = tmp_path / 'config.py'
  path.write_text(
    'import ml_collections\n'
    'def get_config():\n'
    "  return ml_collections.ConfigDict({'corpus': {'sources': (), "
    "'further': (), 'files': ('absent.jsonl',), 'cap_mb': 1.0}})\n"
  )
  flags = f'--config={path}', f'--workdir={tmp_path / "w"}', *arguments
  return binaries.run('build_corpus', *flags)


def test_from_the_command_line_a_bad_input_is_one_line(tmp_path):
  done = call(tmp_path)
  assert (done.returncode, done.stdout) == (1, '')
  [line] = done.stderr.splitlines()
  assert line.startswith('build_corpus: error: ')
  assert 'absent.jsonl' in line


def test_from_the_command_line_a_mistyped_flag_is_one_line(tmp_path):
  done = call(tmp_path, '--config.corpus.cap_bm=2')
  assert done.returncode != 0
  assert 'cap_mb' in done.stderr


@pytest.mark.parametrize('error', [KeyboardInterrupt, KeyError, TypeError])
def test_a_bug_keeps_its_traceback(error):
  def main(argv):
    raise error(*argv)

  with pytest.raises(error):
    commands.fail_with_one_line(main)(['x'])


@pytest.mark.parametrize('error', [ValueError, OSError, FileNotFoundError])
def test_a_user_error_is_one_line(error, capsys):
  def main(argv):
    raise error(*argv)

  with pytest.raises(SystemExit) as stop:
    commands.fail_with_one_line(main)(['two\n  lines'])
  assert stop.value.code == 1
  assert capsys.readouterr().err.endswith(': error: two lines\n')


def test_too_little_memory_is_one_line(capsys):
  with pytest.raises(SystemExit) as stop:
    commands.fail_with_one_line(lambda _: np.zeros(2**50))([])
  assert stop.value.code == 1
  assert 'error: not enough memory: Unable to' in capsys.readouterr().err


def test_a_planted_language_has_one_token_a_symbol(tmp_path):
  settings = dict(
    sources=('planted',),
    further=('planted_flat',),
    tokenizer='words',
    cap_mb=0.1,
    vocab_size=128,
  )
  corpus = build_corpus.run(config((), **settings), tmp_path)
  tokenizer = tokenizers.load(tmp_path / 'corpus' / 'tokenizer.json')
  symbols = synthetic.symbols(synthetic.Language())
  assert corpus.vocab_size == len(symbols) + 2  # The special tokens.
  assert corpus.eos_id == len(symbols) + 1
  assert set(tokenizer.get_vocab()) == {
    *symbols,
    tokenizers.UNKNOWN,
    tokenizers.END_OF_TEXT,
  }
  unknown = tokenizer.token_to_id(tokenizers.UNKNOWN)
  assert not (corpus.tokens == unknown).any()
  rows = packing_rows(corpus, 'held_out/planted_flat')
  text = tokenizers.decode(tokenizer, rows[0, 1:])
  assert '( (' not in text and '[ (' not in text


def packing_rows(corpus, window):
  start, length = corpus.windows[window]
  return corpus.tokens[start : start + length]


def test_an_unknown_tokenizer_is_refused(files, tmp_path):
  with pytest.raises(ValueError, match="one of bpe, words.*got 'letters'"):
    build_corpus.run(config(files, tokenizer='letters'), tmp_path)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('tokenizer', 'words'),
    ('nulls', 'skip'),
    ('min_characters', 1),
    ('max_characters', 100),
  ],
)
def test_an_old_corpus_counts_as_having_the_default_of_a_new_setting(
  workdir, files, name, value
):
  path = workdir / 'corpus' / 'corpus.json'
  original = path.read_text()
  record = packing.load_record(workdir / 'corpus')
  del record['provenance']['settings'][name]
  checked_files.write_json(path, record)
  try:
    build_corpus.run(config(files), workdir)
    with pytest.raises(ValueError, match=f'{name}={value!r}; got one with'):
      build_corpus.run(config(files, **{name: value}), workdir)
  finally:
    path.write_text(original)
