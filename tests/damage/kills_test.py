"""After a kill before any write the next attempt ends the same.

A copy of the directory at that moment is given to another attempt. The store of
estimates has the same test in tests/results/kills_test.py.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import threading

import pytest

from rllc_jax.training import checkpoints
from tests.damage import full_disk_test
from tests.results import kills_test
from tests.training import loop_test

MARKS = {'checkpoint_steps': (0, 2, 5), 'num_steps': 8, 'resume_every': 3}


def times(path):
  """Times of the writes of all files; threads may remove some meanwhile."""
  entries = set()
  for directory, _, names in os.walk(path):
    entries.add(directory)
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        file = pathlib.Path(directory) / name
        entries.add((str(file), file.stat().st_mtime_ns))
  return entries


@contextlib.contextmanager
def copied_before_writes(monkeypatch, path, copies):
  """Yields a list that gets a copy of a directory for every write to it."""
  copied, before, lock = [], set(), threading.Lock()

  def copy(name):
    nonlocal before
    del name
    with lock:  # Orbax writes in threads.
      current = times(path)
      if current != before:
        before = current
        copied.append(copies / str(len(copied)))
        shutil.copytree(
          path, copied[-1], copy_function=kills_test.copy_unless_gone
        )

  with full_disk_test.watched(monkeypatch, path, copy):
    yield copied


@pytest.mark.parametrize('name', full_disk_test.WRITERS)
def test_a_kill_at_any_write_leaves_a_file_whole_or_named(
  tmp_path, monkeypatch, name
):
  write, read = full_disk_test.WRITERS[name]
  path, copies = tmp_path / 'whole', tmp_path / 'copies'
  with copied_before_writes(monkeypatch, path, copies) as copied:
    write(path)
  expected = read(path)
  assert copied
  for copy in copied:
    attempt = functools.partial(read, copy)
    # An incomplete file must not pass for a whole one.
    assert full_disk_test.message_of(attempt, copy) or read(copy) == expected
    write(copy)
    assert read(copy) == expected


def test_a_kill_at_any_write_of_training_changes_nothing(
  tmp_path, monkeypatch, sample
):
  path, copies = tmp_path / 'whole', tmp_path / 'copies'
  with copied_before_writes(monkeypatch, path, copies) as copied:
    expected = loop_test.run(path, **MARKS)
  assert len(copied) > 20
  for copy in sample(copied, 4):
    assert loop_test.run(copy, **MARKS).identical(expected)
    directory = copy / 'checkpoints'
    assert checkpoints.steps(directory) == MARKS['checkpoint_steps']
    for step in MARKS['checkpoint_steps']:
      checkpoints.load(directory, step)
