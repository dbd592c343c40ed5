"""Remaining time of a progress bar."""

import io

import pytest
import tqdm

from experiments.runtime import progress


def test_remaining_time_does_not_count_compilation():
  """A minute of compilation, then 100 draws a second after earlier ones."""
  now = [0.0]
  with tqdm.tqdm(file=io.StringIO()) as bar:
    bar._time = lambda: now[0]
    bar.start_t = bar.last_print_t = 0.0
    progress_bar = progress.Bar(bar)
    steps = [(0, 500), (60, 500), (61, 600), (62, 700), (92, 700), (93, 800)]
    for now[0], done in steps:
      progress_bar.show(done, 1000)
    shown = bar.format_dict
    assert (shown['n'], shown['total'], shown['initial']) == (800, 1000, 500)
    assert shown['rate'] == pytest.approx(100)
    assert shown['elapsed'] == pytest.approx(3)
    assert '<00:02' in str(bar)
