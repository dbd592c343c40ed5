"""Sections of the report on training, heads and provenance."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

import xarray as xr

from rllc_jax.report import blocks
from rllc_jax.report import figures
from rllc_jax.report import losses
from rllc_jax.report import refinements
from rllc_jax.report import separation
from rllc_jax.report import tables

# Parts of identities that are hashes or lists, of no use to readers.
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
  images: figures.Images,
) -> list[blocks.Block]:
  """Blocks on the model, the corpus and the loss."""
  return [
    blocks.Words(loss.sentence),
    *images.at('trained'),
    blocks.Heading('Model and training'),
    blocks.facts(_readable(training.attrs)),
    blocks.Heading('Corpus'),
    *_corpus(corpus),
  ]


def _readable(attributes: Mapping[str, Any]) -> dict[str, Any]:
  """The settings of an identity, without fingerprints."""
  identity = json.loads(attributes.get('identity', '{}'))
  settings = {**identity, **identity.get('settings', {})}
  hidden = {*_FINGERPRINTS, 'settings'}
  return {name: x for name, x in settings.items() if name not in hidden}


def _corpus(corpus: Mapping[str, Any]) -> list[blocks.Block]:
  provenance = corpus.get('provenance', {})
  rows, length = corpus.get('shape', (tables.MISSING, tables.MISSING))
  sizes = {
    'vocabulary': corpus.get('vocab_size', tables.MISSING),
    'sequences': rows,
    'tokens a sequence': length,
  }
  parts: list[blocks.Block] = [blocks.facts(sizes)]
  if domains := provenance.get('domains', {}):
    parts.append(_domains_table(domains))
  else:
    parts.append(blocks.Words('What it was made of is not recorded.', 'note'))
  if skipped := provenance.get('skipped', {}):
    parts.append(blocks.Words('Sources that were skipped:', 'note'))
    parts.append(
      blocks.Bullets([f'{k}: it {why}' for k, why in skipped.items()])
    )
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
  estimates: xr.Dataset,
  verdicts: Sequence[separation.Verdict],
  images: figures.Images,
) -> list[blocks.Block]:
  """Verdicts on the separation of heads, and the last estimate of each."""
  several = estimates.sizes['dataset'] > 1
  sentence_of = lambda v: (
    f'On {v.dataset}: {v.sentence}' if several else v.sentence
  )
  rule = (
    'Heads of a layer count as different where equal heads would show so large '
    f'a chi-square in less than {100 * separation.LEVEL:g} % of cases, errors '
    'taken as independent and normal; no correction is made for several layers '
    'or data sets.'
  )
  parts: list[blocks.Block] = [
    blocks.Bullets([*map(sentence_of, verdicts)]),
    *images.at('heads'),
    blocks.Words(rule, 'note'),
  ]
  last = int(estimates.checkpoint.max())
  for dataset in map(str, estimates.dataset.values):
    where = f' on {dataset}' if several else ''
    title = f'Estimates{where} at the last checkpoint, step {last:,}'
    parts.append(blocks.Heading(title))
    parts.append(refinements.refinements_table(estimates, dataset))
  legend = (
    'wrLLC ± standard error. The error of a change adds two errors as '
    'if they were independent. R-hat and ESS are of the paired differences. '
    'Marked: out of bounds, see whether the numbers can be trusted.'
  )
  return [*parts, blocks.Words(legend, 'note')]


def provenance(
  facts: Mapping[str, Any], traces: xr.Dataset, runs: Sequence[Mapping]
) -> list[blocks.Block]:
  """Versions, devices and settings, and every run that contributed."""
  params = json.loads(traces.attrs.get('identity', '{}')).get('params', {})
  parts: list[blocks.Block] = [blocks.facts(facts)]
  if params:
    parts.append(
      blocks.Folded('Hash of the weights at every step', blocks.facts(params))
    )
  parts.append(blocks.Heading('Runs that estimated'))
  if not runs:
    return [*parts, blocks.Words('They are not recorded.', 'note')]
  legend = (
    'Where a run has not ended, it was stopped or still goes on, and its time '
    'is of when it was last heard of. A + after the commit: files differed '
    'from it.'
  )
  return [
    *parts,
    (_runs_table(runs)),
    blocks.Words(legend, 'note'),
    blocks.Folded('Config of the last run', blocks.facts(runs[-1]['config'])),
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
