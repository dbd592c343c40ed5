"""Untrusted JSONL and plain text."""

import json

import pytest

from tests.untrusted import strangers


@pytest.mark.parametrize(
  'line',
  [
    '{"id": %s, "text": "a"}' % ('9' * 5000),
    '{"\\n\\u001b[2J\\u202e": 1}',
    json.dumps({str(i): i for i in range(9_000)}),
    '{"text": "\\n\\u001b"' + 'x' * 9_000,
    '{"text": {"\\n": 1}}',
    '{"a": ' * 100_000,
  ],
)
def test_bad_lines_are_refused_by_number(tmp_path, line):
  path = tmp_path / 'a.jsonl'
  path.write_text(line)
  assert strangers.is_refused(
    lambda: strangers.texts(path), path, ':1: expected'
  )


def test_a_byte_order_mark_within_a_text_is_text(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('\ufeffone\n\ufefftwo', encoding='utf-8')
  assert strangers.texts(path) == ['one\n\ufefftwo']
