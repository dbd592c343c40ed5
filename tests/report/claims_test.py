"""Claims of a run on the page."""

from rllc_jax.report import claims
from rllc_jax.report import rendering

FINDING = {
  'claim': 'C7',
  'statement': 'multigram heads form early',
  'holds': False,
  'note': 'withdrawn: measured with a known fault',
  'effect': None,
  'error': None,
  'unit': '',
}


def test_a_withdrawn_claim_has_no_verdict_on_the_page():
  shown = lambda finding: rendering.html(claims.claims([finding]))
  withdrawn = shown({**FINDING, 'withdrawn': True})
  assert '>withdrawn<' in withdrawn and '>against it<' not in withdrawn
  assert '>against it<' in shown(FINDING)
