r"""The claims of Wang et al. (2410.02984), each as a number a training run.

A statistic is positive if its claim is true, and 0 under its null. Statistics,
nulls and least effects of interest were committed before any seed was run.
Seeds 0 to 3 of each language are for exploration: what they change is to be
committed before seeds 4 to 7 are run. `pooling` puts seeds together and
decides.

  C1   Heads start alike and grow apart. Standard deviation of wrLLC over the
       heads of a layer, mean over layers, at the end less at the checkpoint
       where predictions are nearest to pairs of tokens (`bigram` is least).
  C2   Curves tell classes. Adjusted Rand index of Euclidean k-means of a
       layer's wrLLC curves, with as many clusters as classes, mean over layers
       with two classes or more.
  C3   Induction heads end lower: mean wrLLC of the multigram heads of the last
       layer less that of its induction heads, at the end.
  C4   Memory is complexity: Spearman correlation of final wrLLC and the number
       of memorized multigrams over the multigram heads of a layer, mean over
       layers with four or more.
  C5a  Where induction helps, induction heads rise above the others: the rise of
       their mean wdrLLC on such data less that of the other heads of the last
       layer, at the end.
  C5b  There the two strongest induction heads part: their distance less that on
       the text.
  C6a  Multigrams leave the first layer: rLLC of its multigram heads against a
       one-layer model, at the onset of induction less at the end.
  C6b  and come to the last: at the end less at the onset, of those there.
  C7a  The multigram circuit forms: K-composition of multigram heads of the
       first layer with those of the last, at the end less its minimum, less the
       same of all other pairs.
  C7b  So does the induction circuit: of previous-token and induction heads.
  C8   Nested delimiters come to need multigram heads: rise of the loss of
       closing them with all multigram heads of the first layer cut from the
       last one, at the end less at the onset.
  C9   Settings keep the order of the heads of a layer: least Spearman
       correlation of final wrLLC with that at another step size, gamma or n
       beta, mean over layers, on Fisher's scale z above a correlation of 0.5.
  C10  Other measures tell classes less well: the index of C2 less the mean of
       that of Hessian trace, Fisher trace, ablation and weight norm.
  C11  The estimator is right: the share of known answers that are met, from -1
       for none to 1 for all.

The onset of induction is the last checkpoint at which no induction head has
half its final score of prefix matching in text. A statistic that needs missing
heads or times is NaN: that seed does not count.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import NamedTuple

from experiments.paper import claim_statistics
from experiments.paper import evidence


class Claim(NamedTuple):
  """A claim of the paper.

  Attributes:
    statement: in words.
    least: the least effect of interest.
    unit: of the effect.
  """

  statement: str
  least: float
  unit: str


# A least effect is a twentieth to a tenth of a head's wrLLC, a quarter of the
# way from chance to certainty, or what is seen in a figure.
CLAIMS: Mapping[str, Claim] = {
  'C1': Claim('heads of a layer start alike and grow apart', 0.1, 'rLLC'),
  'C2': Claim('wrLLC curves alone recover the classes of heads', 0.25, 'index'),
  'C3': Claim('induction heads end below multigram heads', 0.1, 'rLLC'),
  'C4': Claim('wrLLC grows with what heads memorized', 0.25, 'ρ'),
  'C5a': Claim('where induction helps, its heads rise', 0.1, 'rLLC'),
  'C5b': Claim('there the two strongest of them part', 0.1, 'rLLC'),
  'C6a': Claim('multigram heads leave the first layer', 0.1, 'rLLC'),
  'C6b': Claim('and rise in the last layer', 0.1, 'rLLC'),
  'C7a': Claim('multigram heads of two layers compose', 0.02, 'score'),
  'C7b': Claim('previous-token and induction heads compose', 0.02, 'score'),
  'C8': Claim('nested delimiters come to need multigrams', 0.05, 'nats'),
  'C9': Claim('the order of heads is stable to settings', 0.25, 'z'),
  'C10': Claim('other measures recover classes less well', 0.1, 'index'),
  'C11': Claim('the estimator meets every known answer', 1.0, 'share'),
}


def findings(run: evidence.Evidence) -> list[evidence.Finding]:
  """Computes the statistic of every claim, in the order of `CLAIMS`."""
  heads = evidence.sort_heads(run)
  measured = {x.claim: x for claim in _STATISTICS for x in claim(heads)}
  return [measured[name] for name in CLAIMS]


_STATISTICS: tuple[Callable[[evidence.Heads], list[evidence.Finding]], ...] = (
  claim_statistics.growing_apart,
  claim_statistics.curves_tell_classes,
  claim_statistics.induction_is_simple,
  claim_statistics.memory_is_complexity,
  claim_statistics.inductive_data,
  claim_statistics.migration,
  claim_statistics.composition,
  claim_statistics.nested_brackets,
  claim_statistics.order_is_stable,
  claim_statistics.known_answers,
)
