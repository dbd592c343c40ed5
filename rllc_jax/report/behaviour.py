"""Section on attention scores, ablations and classes of heads."""

import xarray as xr

from rllc_jax.report import blocks
from rllc_jax.report import figures
from rllc_jax.report import tables

_COLUMNS = {
  'previous_token': 'previous token',
  'current_token': 'current token',
  'prefix_matching': 'prefix matching',
  'prefix_matching_text': 'the same in text',
  'ablation_zero': 'zero ablation, nats',
  'ablation_resample': 'resample ablation, nats',
}
_CLASSES = (
  'A head is a multigram head if it has more multigrams than effects moved to '
  'other rows would have, the null, by three standard deviations of a count. '
  'Where the words of a planted language are known, those that a head serves '
  'are counted instead.'
)


def behaviour(
  readings: xr.Dataset | None, images: figures.Images
) -> list[blocks.Block]:
  """Builds the section's blocks.

  Args:
    readings: `analysis.zarr`, if there is one.
    images: of scores and ablations, and of losses by kind of symbol.
  """
  if readings is None:
    words = 'Nothing was measured: run experiments.analyze, then the report.'
    return [blocks.Words(words)]
  return [
    *images.at('behaviour'),
    heads_table(readings),
    blocks.Words(_CLASSES),
  ]


def heads_table(readings: xr.Dataset) -> tables.Table:
  """Scores at the last checkpoint, one row per head."""
  last = readings.sortby('checkpoint').isel(checkpoint=-1)
  rows = [
    (
      tables.Cell(f'{layer}:{head}'),
      *(
        tables.Cell(tables.number(float(last[name][layer, head]), '.3f'))
        for name in _COLUMNS
      ),
      tables.Cell(_num_memorized(last, layer, head)),
      tables.Cell(str(readings.head_class.values[layer, head])),
    )
    for layer in range(last.sizes['layer'])
    for head in range(last.sizes['head'])
  ]
  step = f'head, at step {int(last.checkpoint):,}'
  return tables.Table((step, *_COLUMNS.values(), 'multigrams', 'class'), rows)


def _num_memorized(last: xr.Dataset, layer: int, head: int) -> str:
  """Distinct n-grams and skip n-grams, with those of the null."""
  if 'true_words' in last:
    return f'{int((last.true_words + last.true_pairs)[layer, head])}'
  count = int((last.num_ngrams + last.num_skip_ngrams)[layer, head])
  if 'null_multigrams' not in last:
    return f'{count}'
  null = float(last.null_multigrams[layer, head])
  return f'{count} (null {tables.number(null, ".1f")})'
