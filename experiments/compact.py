"""Merges the files of a store, so that there are fewer of them.

  python -m experiments.compact --config=FILE --workdir=DIR

reads the store `DIR/rllc` (or `DIR/NAME` by `estimation.name` of the config).
Draws of a block that follow one another become one file, and so do blocks of
the same refinements, up to 64 MB. A merged file is written before those that it
replaces are removed: a kill at any moment loses nothing, and readers go on. No
run may be at work there meanwhile.
"""

import pathlib

from absl import logging
import ml_collections

from experiments.runtime import commands
from experiments.runtime import sections
from experiments.runtime import specs


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[int, int]:
  """Merges the files of a store.

  Args:
    config: `estimation.name` is read.
    workdir: with the store.

  Returns:
    How many files there were, and how many there are.

  Raises:
    ValueError: if a run is at work, there is no store, or a file is damaged.
  """
  store = specs.open_store(sections.read(config), workdir, (0, 1))
  before, after = store.compact()
  logging.info('%s: %d files, %d before', store.path, after, before)
  return before, after


if __name__ == '__main__':
  commands.start(run)
