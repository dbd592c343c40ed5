"""Twenty real kills each of training and estimation at seeded moments."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.long
def test_forty_kills_change_nothing(tmp_path):
  rows = tmp_path / 'rows.json'
  command = [sys.executable, '-m', 'experiments.kills', '--kills=40']
  flags = [f'--workdir={tmp_path}', f'--json={rows}']
  result = subprocess.run(
    [*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=2400
  )
  assert result.returncode == 0, result.stderr
  results = json.loads(rows.read_text())
  for kills, different in zip(results[::2], results[1::2], strict=True):
    assert kills['value'] >= 20
    assert not kills['note'].startswith('0 ')
    assert different['value'] == 0
