"""Reports targets of a command: a table, a JSON file and an exit status.

Every command that shows targets ends in `finish`: a table last on stdout, exit
status 0 only if all hold, and rows `name, value, unit, target, holds, note` in
the file of --json.
"""

from collections.abc import Sequence
import json
import math
import pathlib
import sys
from typing import NamedTuple

from absl import flags

JSON = flags.DEFINE_string(
  'json', None, 'File to write the rows of the table to, as JSON.'
)


class Row(NamedTuple):
  """One line of the table.

  Attributes:
    name: of the measured quantity.
    value: its value.
    unit: of value and target; '' for a pure number.
    target: the condition on the value, in words; '' for a value that is
      reported and not judged.
    holds: True if it is met; None without a target, or if it is undecided.
    note: conditions of the measurement.
  """

  name: str
  value: float
  unit: str = ''
  target: str = ''
  holds: bool | None = None
  note: str = ''


def table(rows: Sequence[Row]) -> str:
  """The rows as aligned text.

  Examples:
    >>> print(table([Row('bias', 0.5, '%', 'under 1', True)]))
    name  value  unit  target   holds  note
    bias  0.5    %     under 1  yes
  """
  word = {True: 'yes', False: 'NO', None: ''}
  cells = [Row._fields]
  for name, value, unit, target, holds, note in rows:
    cells.append((name, f'{value:.5g}', unit, target, word[holds], note))
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    '  '.join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    )
    for line in cells
  ]
  return '\n'.join(line.rstrip() for line in lines)


def finish(rows: Sequence[Row]) -> None:
  """Writes --json, prints the table and exits 1 unless every target holds."""
  if JSON.value:
    write_json(pathlib.Path(JSON.value).expanduser(), rows)
  print(table(rows), flush=True)
  # None counts as a failure: an undecided target is not met.
  if any(row.target and not row.holds for row in rows):
    sys.exit(1)


def write_json(path: pathlib.Path, rows: Sequence[Row]) -> None:
  """Writes rows as a list of objects; a value that is not finite is null."""
  objects = [row._asdict() for row in rows]
  for item in objects:
    item['value'] = item['value'] if math.isfinite(item['value']) else None
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(objects, indent=1) + '\n')
