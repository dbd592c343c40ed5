"""Claims of a run on the page."""

from rllc_jax.report import claims
from rllc_jax.report import rendering

FINDING = {
  'claim': 'C7',
  'statement': 'heads compose',
  'note': '3 of 64 pairs',
  'effect': 0.0213,
  'error': None,
  'unit': 'score',
}


def test_a_run_shows_its_statistic_and_no_verdict():
  shown = lambda finding: rendering.html(claims.claims([finding]))
  assert '0.0213' in shown(FINDING) and 'heads compose' in shown(FINDING)
  with_error = shown({**FINDING, 'error': 0.004})
  assert '0.0213 ± 0.0040' in with_error
  assert '–' in shown({**FINDING, 'effect': None})
  assert 'One run decides nothing' in shown(FINDING)
