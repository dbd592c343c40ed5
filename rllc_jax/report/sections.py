"""What the report says below its opening; every number is from the data."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

import xarray as xr

from rllc_jax.report import losses
from rllc_jax.report import markup
from rllc_jax.report import separation
from rllc_jax.report import tables

# Parts of identities that only machines compare.
_FINGERPRINTS = {
  'checkpoint_steps',
  'data',
  'evaluation',
  'initial_weights',
  'num_coordinates',
  'params',
  'rng_key',
  'tokens',
  'window',
  'windows',
}
_MARKED = (
  f'Marked: an equilibrium ratio off 1 by more than {tables.RATIO_LIMIT:g} and '
  f'two errors, R-hat above {tables.RHAT_LIMIT:g}, an effective sample size '
  f'(ESS) under {tables.ESS_LIMIT:g}, failed chains.'
)
_NOT_COVERED = (
  'Cold start: chains begin at the checkpoint itself. A burn-in is left out; '
  'an equilibrium ratio below 1 says that they were still spreading after it.',
  'Step size: Langevin dynamics in steps samples a slightly different '
  'posterior; that bias does not shrink with more draws.',
  'The corpus is finite, and training was run once: other text or another '
  'training seed would give other numbers.',
  'Failed chains are left out of everything else, which biases what is left.',
)


def trained(
  training: xr.Dataset,
  corpus: Mapping[str, Any],
  loss: losses.LossVerdict,
  figure: bytes,
) -> list[str]:
  """The model, the corpus, the loss."""
  caption = (
    'Loss against training step, in nats per token. Horizontal lines are the '
    'entropies of single tokens and of a token given the one before it, in the '
    'training text: what counting alone would reach.'
  )
  return [
    markup.tag('p', loss.sentence),
    markup.picture(figure, 'Loss against training step', caption, 'narrow'),
    markup.tag('h3', 'Model and training'),
    markup.facts(_readable(training.attrs)),
    markup.tag('h3', 'Corpus'),
    *_corpus(corpus),
  ]


def _readable(attributes: Mapping[str, Any]) -> dict[str, Any]:
  """The settings within an identity, without fingerprints."""
  identity = json.loads(attributes.get('identity', '{}'))
  settings = {**identity, **identity.get('settings', {})}
  hidden = {*_FINGERPRINTS, 'settings'}
  return {name: x for name, x in settings.items() if name not in hidden}


def _corpus(corpus: Mapping[str, Any]) -> list[str]:
  provenance = corpus.get('provenance', {})
  rows, length = corpus.get('shape', (tables.MISSING, tables.MISSING))
  sizes = {
    'vocabulary': corpus.get('vocab_size', tables.MISSING),
    'sequences': rows,
    'tokens a sequence': length,
  }
  parts = [markup.facts(sizes)]
  if domains := provenance.get('domains', {}):
    parts.append(markup.table(_domains_table(domains)))
  else:
    parts.append(
      markup.tag('p', 'What it was made of is not recorded.', 'note')
    )
  if skipped := provenance.get('skipped', {}):
    parts.append(markup.tag('p', 'Sources that were skipped:', 'note'))
    parts.append(markup.bullets(f'{k}: it {why}' for k, why in skipped.items()))
  return parts


def _domains_table(domains: Mapping[str, Mapping[str, Any]]) -> tables.Table:
  header = ('domain', 'license', 'package', 'documents', 'MB')
  rows = []
  for name, record in domains.items():
    count = lambda key, record=record: (
      f'{record[key]:,}' if key in record else tables.MISSING
    )
    size = f'{record["bytes"] / 1e6:.2f}' if 'bytes' in record else '–'
    license_ = record.get('license', tables.MISSING)
    source = record.get('requires') or tables.MISSING
    words = (name, license_, source, count('documents'), size)
    words += (count('train_tokens'), count('held_out_tokens'))
    rows.append(tuple(tables.Cell(str(word)) for word in words))
  header = (*header, 'training tokens', 'held-out tokens')
  return tables.Table(header, rows, num_words=3)


def heads(
  estimates: xr.Dataset, verdicts: Sequence[separation.Verdict], figure: bytes
) -> list[str]:
  """Whether heads separate, and the last estimate of each."""
  several = estimates.sizes['dataset'] > 1
  say = lambda v: f'On {v.dataset}: {v.sentence}' if several else v.sentence
  caption = (
    'Standard deviation between the heads of a layer, beside the root mean '
    'square of their standard errors. Where the first is well above the '
    'second, heads differ.'
  )
  rule = (
    'Heads of a layer count as different where equal heads would show so large '
    f'a chi-square in less than {100 * separation.LEVEL:g} % of cases, errors '
    'taken as independent and normal; no correction is made for several layers '
    'or data sets.'
  )
  parts = [
    markup.bullets(map(say, verdicts)),
    markup.picture(
      figure, 'Spread between heads', caption, '' if several else 'narrow'
    ),
    markup.tag('p', rule, 'note'),
  ]
  last = int(estimates.checkpoint.max())
  for dataset in map(str, estimates.dataset.values):
    where = f' on {dataset}' if several else ''
    title = f'Estimates{where} at the last checkpoint, step {last:,}'
    parts.append(markup.tag('h3', title))
    parts.append(markup.table(tables.refinements_table(estimates, dataset)))
  legend = (
    'wrLLC ± standard error. The error of a change adds two errors as '
    f'if they were independent. {_MARKED}'
  )
  return [*parts, markup.tag('p', legend, 'note')]


def trust(
  estimates: xr.Dataset, traces: xr.Dataset, burn_in: int, figure: bytes
) -> list[str]:
  """Settings, diagnostics, chains, and what errors do not cover."""
  caption = (
    'Paired loss differences along the chains of the heads with the lowest and '
    'the highest last wrLLC: loss at the draw less loss at the checkpoint on '
    'the same minibatch, times nβ. Chains that reach their level before the '
    'shaded burn-in ends, and stay, are what the estimates assume.'
  )
  failed = int(estimates.num_failed.sum())
  sampled = estimates.llc.notnull() | (estimates.num_failed > 0)
  total = int(sampled.sum()) * traces.sizes['chain']
  meaning = (
    'The equilibrium ratio is 1, within its error, for chains in equilibrium, '
    'and below 1 while they still spread. R-hat near 1 says that chains agree '
    'with one another; it is taken of the loss differences, which are noisy, '
    'and of the squared distance from the checkpoint, which is slow. A cell is '
    f'one refinement at one checkpoint on one data set. {_MARKED}'
  )
  return [
    markup.tag(
      'p',
      'Every number here is an estimate at the following settings, not '
      'the asymptotic learning coefficient; other settings give other numbers.',
    ),
    markup.facts(_sampling_settings(estimates, traces, burn_in)),
    markup.tag('h3', 'Diagnostics over all cells'),
    markup.tag('p', f'Chains that failed: {failed} of {total:,}. {meaning}'),
    markup.table(tables.diagnostics_table(estimates)),
    markup.picture(figure, 'Chains', caption),
    markup.tag('h3', 'What the errors do not cover'),
    markup.tag(
      'p',
      'Intervals cover the noise of sampling: the autocorrelation of chains '
      'and their shared minibatches. They do not cover:',
    ),
    markup.bullets(_NOT_COVERED),
  ]


def _sampling_settings(
  estimates: xr.Dataset, traces: xr.Dataset, burn_in: int
) -> dict[str, Any]:
  names = {
    'nbeta': 'nβ, in samples',
    'localization': 'localization γ',
    'step_size': 'step size ε',
    'num_steps_between_draws': 'steps between draws',
  }
  known = {
    words: traces.attrs[name]
    for name, words in names.items()
    if name in traces.attrs
  }
  moving = sorted(set(traces.num_coordinates.values.tolist()))
  identity = json.loads(traces.attrs.get('identity', '{}'))
  return {
    **known,
    'chains a refinement': traces.sizes['chain'],
    'draws of a chain, burn-in included': traces.sizes['draw'],
    'burn-in left out, in steps': burn_in,
    'baseline': estimates.attrs.get('baseline', tables.MISSING),
    'weights that move at once': moving,
    'chains and heads share minibatches': identity.get(
      'share_batches', tables.MISSING
    ),
  }
