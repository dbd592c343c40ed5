"""A kill before any write: the next attempt ends as if nothing had happened.

What is there at that moment is given to an attempt of its own. The store of
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
  """When each file was written; other threads may take one away."""
  found = set()
  for directory, _, names in os.walk(path):
    found.add(directory)
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        file = pathlib.Path(directory) / name
        found.add((str(file), file.stat().st_mtime_ns))
  return found


@contextlib.contextmanager
def copied_before_writes(monkeypatch, path, copies):
  """Yields a list that gets a copy of a directory for every write to it."""
  found, before, lock = [], set(), threading.Lock()

  def keep(name):
    nonlocal before
    del name
    with lock:  # Orbax writes in threads.
      now = times(path)
      if now != before:
        before = now
        found.append(copies / str(len(found)))
        shutil.copytree(
          path, found[-1], copy_function=kills_test.copy_unless_gone
        )

  with full_disk_test.watched(monkeypatch, path, keep):
    yield found


@pytest.mark.parametrize('name', full_disk_test.WRITERS)
def test_a_writer(tmp_path, monkeypatch, name):
  write, read = full_disk_test.WRITERS[name]
  path, copies = tmp_path / 'whole', tmp_path / 'copies'
  with copied_before_writes(monkeypatch, path, copies) as found:
    write(path)
  expected = read(path)
  assert found
  for copy in found:
    attempt = functools.partial(read, copy)
    # Half of it is not taken for the whole.
    assert full_disk_test.message_of(attempt, copy) or read(copy) == expected
    write(copy)
    assert read(copy) == expected


def test_a_training_run(tmp_path, monkeypatch, sample):
  path, copies = tmp_path / 'whole', tmp_path / 'copies'
  with copied_before_writes(monkeypatch, path, copies) as found:
    expected = loop_test.run(path, **MARKS)
  assert len(found) > 20
  for copy in sample(found, 4):
    assert loop_test.run(copy, **MARKS).identical(expected)
    kept = copy / 'checkpoints'
    assert checkpoints.steps(kept) == MARKS['checkpoint_steps']
    for step in MARKS['checkpoint_steps']:
      checkpoints.load(kept, step)
