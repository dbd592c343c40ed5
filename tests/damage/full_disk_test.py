"""A full or read-only disk at any moment.

Afterwards files are whole, old or new, or are named as incomplete; and the next
attempt succeeds.
"""

from concurrent import futures
import contextlib
import errno
import functools
import io
import itertools
import json
import os
import resource
import shutil
import threading

import numpy as np
import pytest
import xarray as xr

from experiments import report
from rllc_jax import checked_files
from rllc_jax import trees
from rllc_jax.data import corpora
from rllc_jax.data import documents
from rllc_jax.data import packing
from rllc_jax.data import tokenizers
from rllc_jax.plots import style
from rllc_jax.training import checkpoints
from rllc_jax.training import orbax_files
from rllc_jax.training import records
from tests.damage import checkpoints_test
from tests.damage import damages
from tests.experiments import report_test

ERRORS = {
  'full': OSError(errno.ENOSPC, 'No space left on device'),
  'unwritable': PermissionError(errno.EACCES, 'Permission denied'),
}
WEIGHTS = {'w': np.linspace(0, 1, 300, dtype=np.float32)}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  monkeypatch.setattr(orbax_files, '_SETTLING_SECONDS', 0.01)


def corpus(path):
  rows = np.random.default_rng(0).integers(0, 9, (400, 8))
  rows[:, 0] = 9
  arranged = packing.arrange(
    {'a': rows[:300]}, {'a': rows[300:]}, {}, vocab_size=10, eos_id=9
  )
  tokenizer = tokenizers.train([], tokenizers.MIN_VOCABULARY)
  tokenizers.save(tokenizer, path / 'tokenizer.json')
  packing.save_corpus(path, arranged, {'a': 1}, files=['tokenizer.json'])


def read_corpus(path):
  loaded = packing.load_corpus(path)
  return trees.content_hash(loaded.tokens), loaded[1:]


def data_set(path):
  texts = [f'{number} times the sea' for number in range(20)]
  rows = [
    documents.Document(
      documents.content_key(text), 'a', ['train', 'held_out'][i % 2], text
    )
    for i, text in enumerate(texts)
  ]
  corpora.prepare(path, rows, {'a': 1})


def read_data_set(path):
  directory = path / 'corpus' / '1.0.0'
  return corpora.load_documents(directory, 'train')


def checkpoint(path):
  checkpoints.save(path, 3, WEIGHTS, {'a': 1})


def read_checkpoint(path):
  return trees.content_hash(checkpoints.load(path, 3))


def record(path):
  dataset = xr.Dataset(
    {'loss': ('step', np.linspace(7, 4, 400))}, attrs={'a': 1}
  )
  if not (path / 'training.zarr').exists():
    records.save_record(dataset, path / 'training.zarr')


def read_record(path):
  dataset = records.load_record(path / 'training.zarr')
  return json.dumps(dataset.to_dict(), sort_keys=True)


def json_file(path):
  checked_files.write_json(path / 'claims.json', {'a': [*range(2000)]})


def read_json_file(path):
  return checked_files.read_json(path / 'claims.json', ['a'], 'Again.')


WRITERS = {
  'corpus': (corpus, read_corpus),
  'data_set': (data_set, read_data_set),
  'checkpoint': (checkpoint, read_checkpoint),
  'record': (record, read_record),
  'json': (json_file, read_json_file),
}


@contextlib.contextmanager
def watched(monkeypatch, root, act):
  """Calls `act(name)` before every call that writes below `root`.

  These make a directory, open a file to write to it, or move one.
  """

  def after_act(real):
    def call(path, *args, **options):
      is_below = str(path).startswith(str(root))
      exists = real.__name__ == 'mkdir' and os.path.isdir(path)
      if is_below and not exists:
        act(real.__name__)
      return real(path, *args, **options)

    return call

  opened, watched_open = io.open, after_act(io.open)

  def open_(file, mode='r', *args, **options):
    writes = set(mode) & set('wax+')
    return (watched_open if writes else opened)(file, mode, *args, **options)

  with monkeypatch.context() as patch:
    for name in ('mkdir', 'rename', 'replace'):
      patch.setattr(os, name, after_act(getattr(os, name)))
    patch.setattr(io, 'open', open_)
    yield


@contextlib.contextmanager
def failing(monkeypatch, root, number, error):
  """The disk refuses a call by its number; yields whether there was one."""
  calls, reached = itertools.count(), []

  def refuse(name):
    if next(calls) == number:
      reached.append(name)
      raise error

  with watched(monkeypatch, root, refuse):
    yield reached


def message_of(attempt, path):
  """The text of a good error, or '' if there is none."""
  try:
    attempt()
  except (ValueError, OSError) as error:
    assert '\n' not in str(error)
    assert str(path) in str(error)
    return str(error)
  return ''


@pytest.mark.sampled(4)
@pytest.mark.parametrize('error', ERRORS)
@pytest.mark.parametrize('name', WRITERS)
def test_a_refused_call_is_named_and_the_next_attempt_succeeds(
  tmp_path, monkeypatch, name, error
):
  write, read = WRITERS[name]
  write(tmp_path / 'whole')
  expected = read(tmp_path / 'whole')
  for number in itertools.count():
    path = tmp_path / str(number)
    attempt = functools.partial(write, path)
    with failing(monkeypatch, tmp_path, number, ERRORS[error]) as reached:
      message = message_of(attempt, path)
    if not reached:
      break
    assert 'run the same command again' in message or read(path) == expected
    # An incomplete file must not pass for a whole one.
    assert message_of(functools.partial(read, path), path) or (
      read(path) == expected
    )
    write(path) if message else None
    assert read(path) == expected
  assert number > 2


def test_a_second_attempt_is_safe_from_threads_of_the_first(
  tmp_path, monkeypatch
):
  """Zarr's threads do so: a second attempt uses another directory."""
  ended, places = threading.Event(), []

  def fail(record, path, **options):
    places.append(path)
    raise ERRORS['full']

  def write_on():
    while not ended.is_set():
      with contextlib.suppress(OSError):
        places[0].mkdir(exist_ok=True)
        (places[0] / 'a').write_bytes(b'0')
        (places[0] / 'a').rename(places[0] / '.zattrs')

  with monkeypatch.context() as patch:
    patch.setattr(xr.Dataset, 'to_zarr', fail)
    assert 'No space left' in message_of(lambda: record(tmp_path), tmp_path)
  with futures.ThreadPoolExecutor(1) as pool:
    pool.submit(write_on)
    try:
      for _ in range(20):
        record(tmp_path)
        read_record(tmp_path)
        shutil.rmtree(tmp_path / 'training.zarr')
    finally:
      ended.set()


@pytest.mark.parametrize('name', WRITERS)
def test_a_disk_full_within_a_file_is_named(tmp_path, name):
  write, read = WRITERS[name]
  write(tmp_path / 'whole')
  expected = read(tmp_path / 'whole')
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  for most in (1, 40, 200, 1000):
    path = tmp_path / str(most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
      message = message_of(functools.partial(write, path), path)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 'run the same command again' in message
    assert message_of(functools.partial(read, path), path)
    write(path)
    assert read(path) == expected


@pytest.mark.parametrize('error', ERRORS)
def test_a_resume_state_is_the_old_one_or_the_new_one(
  tmp_path, monkeypatch, error
):
  old, new = {'w': WEIGHTS['w'] + 1}, WEIGHTS
  steps = set()
  for number in itertools.count():
    path = tmp_path / str(number)
    checkpoints.save_resume(path, old, 1)
    attempt = functools.partial(checkpoints.save_resume, path, new, 2)
    with failing(monkeypatch, tmp_path, number, ERRORS[error]) as reached:
      message_of(attempt, path)
    if not reached:
      break
    state, step = checkpoints.load_resume(path, WEIGHTS)
    np.testing.assert_array_equal(state['w'], (old, new)[step - 1]['w'])
    steps.add(step)
    checkpoints.save_resume(path, new, 3)
    assert checkpoints.steps(path) == (3,)
  assert steps == {1, 2}


@pytest.mark.parametrize('error', ERRORS)
def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, error):
  path = tmp_path / 'claims.json'
  for number in range(2):  # To open the new one, to move it.
    checked_files.write_json(path, {'a': 1})
    with failing(monkeypatch, tmp_path, number, ERRORS[error]) as reached:
      write = functools.partial(checked_files.write_json, path, {'a': 2})
      message = message_of(write, path)
    assert reached and message
    assert checked_files.read_json(path, ['a'], '') == {'a': 1}
    assert [x.name for x in tmp_path.iterdir()] == ['claims.json']


@pytest.mark.sampled(1)
# To move the first figure, and the page.
@pytest.mark.parametrize(('error', 'number'), [('full', 1), ('unwritable', 11)])
def test_a_failed_report_leaves_the_old_files(
  tmp_path, monkeypatch, error, number
):
  """Rendering is left out: it takes seconds."""
  report_test.write_run(tmp_path)
  monkeypatch.setattr(style, 'image', lambda *args: b'<svg></svg>')
  run = functools.partial(report.run, report_test.config(burn_in=20), tmp_path)
  page = run().read_bytes()
  before = damages.content(tmp_path)
  with failing(monkeypatch, tmp_path, number, ERRORS[error]) as reached:
    message = message_of(run, tmp_path)
  assert reached and 'run the same command again' in message
  after = damages.content(tmp_path)
  assert {x: after[x] for x in before} == before
  assert run().read_bytes() == page


def test_training_resumes_after_a_full_disk(tmp_path, monkeypatch, sample):
  expected = checkpoints_test.train(tmp_path / 'whole')
  for number in sample(range(5, 55, 7), 2):
    run = tmp_path / str(number)
    attempt = functools.partial(checkpoints_test.train, run)
    with failing(monkeypatch, tmp_path, number, ERRORS['full']) as reached:
      message = message_of(attempt, run)
    assert reached and 'run the same command again' in message
    assert checkpoints_test.train(run) == expected
