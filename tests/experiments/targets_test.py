"""A command succeeds only if every target holds."""

import json
import math
import types

import pytest

from experiments.runtime import targets


def row(target, holds, value=1.0):
  return targets.Row('x', value, 's', target, holds)


@pytest.mark.parametrize(
  ('rows', 'fails'),
  [
    ([row('at most 2', True), row('', None)], False),
    ([row('at most 2', True), row('at most 0', False)], True),
    ([row('at most 2', None)], True),  # It cannot be told.
  ],
)
def test_exit_1_unless_every_target_holds(
  rows, fails, monkeypatch, tmp_path, capsys
):
  path = tmp_path / 'below' / 'rows.json'
  flag = types.SimpleNamespace(value=str(path))
  monkeypatch.setattr(targets, 'JSON', flag)
  if fails:
    with pytest.raises(SystemExit) as stopped:
      targets.finish(rows)
    assert stopped.value.code == 1
  else:
    targets.finish(rows)
  assert capsys.readouterr().out.startswith('name  value')
  objects = json.loads(path.read_text())
  assert [x['holds'] for x in objects] == [x.holds for x in rows]
  assert set(objects[0]) == set(targets.Row._fields)


def test_values_that_are_not_finite_are_null(tmp_path):
  targets.write_json(tmp_path / 'x.json', [row('', None, math.nan)])
  assert json.loads((tmp_path / 'x.json').read_text())[0]['value'] is None
