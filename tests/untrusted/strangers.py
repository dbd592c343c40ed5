"""Helpers for tests of untrusted files."""

import pytest

from rllc_jax.data import files


def is_refused(read, path, words):
  """True if `read` raises a good error: one short line with the path."""
  with pytest.raises((ValueError, OSError), match=words) as error:
    read()
  message = str(error.value)
  assert str(path) in message
  assert message.isprintable() and len(message) < 1000
  return True


def texts(path):
  return list(files.source(str(path)).read())


def put(*keys_and_value):
  *keys, last, value = keys_and_value

  def change(record):
    for key in keys:
      record = record[key]
    record[last] = value

  return change
