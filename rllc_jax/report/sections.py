"""What the report says below its opening; every number is from the data."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

import xarray as xr

from rllc_jax.report import losses
from rllc_jax.report import markup
from rllc_jax.report import refinements
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
    parts.append(
      markup.table(refinements.refinements_table(estimates, dataset))
    )
  legend = (
    'wrLLC ± standard error. The error of a change adds two errors as '
    'if they were independent. R-hat and ESS are of the paired differences. '
    'Marked: out of bounds, see whether the numbers can be trusted.'
  )
  return [*parts, markup.tag('p', legend, 'note')]


def provenance(
  facts: Mapping[str, Any], traces: xr.Dataset, runs: Sequence[Mapping]
) -> list[str]:
  """What the numbers were made with, and every run that had a share in them."""
  params = json.loads(traces.attrs.get('identity', '{}')).get('params', {})
  parts = [markup.facts(facts)]
  if params:
    parts.append(
      markup.folded('Hash of the weights at every step', markup.facts(params))
    )
  parts.append(markup.tag('h3', 'Runs that estimated'))
  if not runs:
    return [*parts, markup.tag('p', 'They are not recorded.', 'note')]
  legend = (
    'Where a run has not ended, it was stopped or still goes on, and its time '
    'is of when it was last heard of. A + after the commit: files differed '
    'from it.'
  )
  return [
    *parts,
    markup.table(_runs_table(runs)),
    markup.tag('p', legend, 'note'),
    markup.folded('Config of the last run', markup.facts(runs[-1]['config'])),
  ]


def _runs_table(runs: Sequence[Mapping[str, Any]]) -> tables.Table:
  header = ('started, UTC', 'commit', 'devices', 'process', 'seconds', 'ended')
  names = list(dict.fromkeys(name for run in runs for name in run['versions']))
  rows = []
  for run in runs:
    index, count = run['process']
    words = (
      run['started'],
      run['git'] or tables.MISSING,
      run['devices'],
      f'{index} of {count}',
      f'{run["seconds"]:,.1f}',
      'yes' if run['ended'] else 'no',
      run['python'],
      *(run['versions'].get(name, tables.MISSING) for name in names),
    )
    rows.append(tuple(tables.Cell(str(word)) for word in words))
  return tables.Table((*header, 'python', *names), rows)
