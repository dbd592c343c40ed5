r"""The claims of Wang et al. (2410.02984), each as a number with its error.

Each training run gives one value of each statistic, which is positive if the
claim is true, and 0 under its null. Statistics, nulls and thresholds were
chosen before any run. The classes of heads (`head_types`) were not: they were
settled on seeds 0 and 1 of the planted language. So the findings on these seeds
are no test of C2 to C8 and C10.

  C1   Heads start alike and grow apart. Standard deviation of wrLLC over the
       heads of a layer, mean over layers, at the end less at the end of LM1,
       which is where predictions are nearest to pairs of tokens (`bigram` is at
       its least). Error: those of the estimates, carried through. Null: 0.
  C2   Curves tell classes. Adjusted Rand index of Euclidean k-means of a
       layer's wrLLC curves, with as many clusters as classes, mean over layers
       with two classes or more. Null and error: mean and standard deviation
       under permutations of the classes.
  C3   Induction heads end lower: mean wrLLC of the multigram heads of the last
       layer less that of its induction heads, at the end. Null: 0.
  C4   Memory is complexity: Spearman correlation of final wrLLC and the number
       of memorized multigrams over multigram heads. Error: 1 / sqrt(n - 1).
  C5a  Code wants induction: (induction heads less the other heads of the last
       layer) on code less the same on text, at the end. Null: 0.
  C5b  Code parts induction heads: the distance of the two strongest ones on
       code less that on text, at the end. Null: 0.
  C6a  Multigrams leave the first layer: rLLC of its multigram heads against a
       one-layer model, at the onset of induction less at the end. Null: 0.
  C6b  and come to the second: at the end less at the onset, of those of the
       last layer. Null: 0.
  C7a  The multigram circuit forms: K-composition of first-layer multigram heads
       with last-layer ones, at the end less at the onset. Error: over pairs.
  C7b  So does the induction circuit: of previous-token and induction heads.
  C8   Nested brackets come to need it: rise of the loss of closing nested
       brackets with those paths cut, at the end less at the onset. Error: over
       minibatches.
  C9   Settings keep the order of heads: least Spearman correlation of final
       wrLLC with that at another step size, gamma or n beta. On Fisher's scale
       z, error 1.06 / sqrt(n - 3). Null: a correlation of 0.5.
  C10  Other measures tell classes less well: the index of C2 less the mean of
       that of Hessian trace, Fisher trace and ablation, error as there.
  C11  The estimator is right: 1 if every known answer is met, or -1. No error.

C4, C7 and C8 are withdrawn, because their statistics do not measure the claim;
`WITHDRAWN` has the reasons. The statistics are still computed.

The onset of induction is the last checkpoint at which no induction head has
half its final score of prefix matching in text. Errors of estimates are those
of `llc.of_draws`. A statistic that needs missing heads or times is NaN. A claim
*holds* if its statistic is above two errors in every run. It *does not hold* if
it is below minus two errors in every run. Otherwise it *cannot be told*. A
withdrawn claim does none of these.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

from experiments.paper import claim_statistics
from experiments.paper import evidence
from rllc_jax.analysis import head_types

STATEMENTS = {
  'C1': 'heads of a layer start alike and grow apart',
  'C2': 'wrLLC curves alone recover the classes of heads',
  'C3': 'induction heads end below the multigram heads of their layer',
  'C4': 'wrLLC of multigram heads grows with what they memorized',
  'C5a': 'on code, induction heads rise above the others',
  'C5b': 'on code, the two strongest induction heads part',
  'C6a': 'against a one-layer model, layer-0 multigram heads decline',
  'C6b': 'against a one-layer model, last-layer multigram heads rise',
  'C7a': 'multigram heads of two layers come to compose',
  'C7b': 'previous-token and induction heads come to compose',
  'C8': 'closing nested brackets comes to need the multigram circuit',
  'C9': 'the order of heads is stable to the settings',
  'C10': 'other measures recover the classes less well',
  'C11': 'the estimator meets every known answer',
}

_NO_NULL = 'untrained heads count as "multigram" heads, too'
_NO_BRACKETS = 'operators and ">>" count as brackets'
_NO_ONSET = 'whether composition grows depends on which checkpoint is the onset'

# Claims and classes of heads that no table, page or figure may rely on, with
# the reasons. An entry is removed when its measure is repaired.
WITHDRAWN: Mapping[str, tuple[str, ...]] = {
  head_types.MULTIGRAM: (_NO_NULL,),
  'C4': (_NO_NULL,),
  'C7a': (_NO_NULL, _NO_ONSET),
  'C7b': (_NO_ONSET,),
  'C8': (_NO_NULL, _NO_BRACKETS),
}


def withdrawn(*names: str) -> str:
  """Reasons why claims or classes are withdrawn, as text; '' if none is.

  Examples:
    >>> withdrawn('C1', 'C4')
    'withdrawn: untrained heads count as "multigram" heads, too'
  """
  reasons = [reason for name in names for reason in WITHDRAWN.get(name, ())]
  return f'withdrawn: {"; ".join(dict.fromkeys(reasons))}' if reasons else ''


def findings(run: evidence.Evidence) -> list[evidence.Finding]:
  """Computes the statistic of every claim, with a note if it is withdrawn."""
  heads = evidence.sort_heads(run)
  measured = {x.claim: x for claim in _CLAIMS for x in claim(heads)}
  return [_with_reasons(measured[claim]) for claim in STATEMENTS]


def _with_reasons(finding: evidence.Finding) -> evidence.Finding:
  notes = withdrawn(finding.claim), finding.note
  return finding._replace(note='; '.join(filter(None, notes)))


def verdict(results: Sequence[evidence.Finding]) -> bool | None:
  """True or False if a claim holds in all runs or in none; None if undecided.

  A withdrawn claim is undecided, whatever its statistic.

  Examples:
    >>> results = [
    ...   evidence.Finding('C3', x, 0.4, '', '') for x in (2.0, 1.0, 0.1)
    ... ]
    >>> verdict(results[:2]), verdict(results)
    (True, None)
  """
  if withdrawn(*(x.claim for x in results)):
    return None
  for sign in (1, -1):
    if results and all(sign * x.effect > 2 * x.error for x in results):
      return sign > 0
  return None


_CLAIMS: tuple[Callable[[evidence.Heads], list[evidence.Finding]], ...] = (
  claim_statistics.growing_apart,
  claim_statistics.curves_tell_classes,
  claim_statistics.induction_is_simple,
  claim_statistics.memory_is_complexity,
  claim_statistics.code,
  claim_statistics.migration,
  claim_statistics.composition,
  claim_statistics.nested_brackets,
  claim_statistics.order_is_stable,
  claim_statistics.known_answers,
)
