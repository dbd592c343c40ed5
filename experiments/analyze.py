"""What heads attend to and do, at every checkpoint of a training run.

  python -m experiments.analyze --config=FILE --workdir=DIR

reads `DIR/corpus`, `DIR/train/checkpoints` and the section `analysis` of the
config, and writes `DIR/analysis.zarr`: scores of attention, the effects of
ablations and of cut paths, composition, and, where the corpus is a planted
language, the loss on each kind of its symbols beside the least that is possible
(`rllc_jax.data.synthetic`). No logits are kept: they exist a tile at a time.
experiments.report draws it.
"""

import functools
import json
import pathlib

from absl import logging
import jax
import jax.numpy as jnp
from matplotlib import figure
import ml_collections
import numpy as np
import tqdm
import xarray as xr

from experiments import choices
from experiments import commands
from experiments import sections
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import readings
from rllc_jax.analysis import token_losses
from rllc_jax.data import packing
from rllc_jax.data import synthetic
from rllc_jax.data import tokenizers
from rllc_jax.models import attention_only
from rllc_jax.plots import readings as plots
from rllc_jax.training import checkpoints
from rllc_jax.training import records
from rllc_jax.training import runs

_PLANTED_ROWS = 1_024
_SAMPLE = 512  # Symbols of a kind whose sources are looked at.


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> xr.Dataset:
  """Analyzes, or reads what was analyzed.

  Args:
    config: `analysis` has fields of `sections.Analysis`.
    workdir: with the subdirectories `corpus` and `train`.

  Returns:
    What `analysis.zarr` holds: see `readings.read_heads`, and of the last
    checkpoint `readings.read_multigrams`; of a planted language `kind_loss`
    over (checkpoint, kind) and `kind_floor`, nats, and of the last checkpoint
    `source_attention`.

  Raises:
    ValueError: a window does not exist, the context is too short, or what is
      there was analyzed with other settings or of another run.
  """
  workdir = pathlib.Path(workdir)
  path = workdir / 'analysis.zarr'
  settings = sections.read(config, 'analysis')
  corpus = packing.load_corpus(workdir / 'corpus')
  kept = workdir / 'train' / 'checkpoints'
  model = choices.trained_model(kept, corpus)
  trajectory = checkpoints.trajectory(kept)
  identity = runs.identity(
    **settings._asdict(),
    seed=config.seed,
    model=choices.model_sizes(model),
    checkpoints=trajectory.steps,
    last_weights=trees.content_hash(trajectory.load(trajectory.steps[-1:])),
    tokens=trees.content_hash(corpus.tokens),
  )
  if path.exists():
    found = records.load_record(path)
    runs.check_same(json.loads(found.attrs['identity']), identity, path)
    logging.info('%s: already complete', path)
    return found
  if settings.dataset not in corpus.windows:
    raise ValueError(
      'config.analysis.dataset must be a window of the corpus, '
      f'{", ".join(corpus.windows)}; got {settings.dataset!r}.'
    )
  count = max(16, settings.num_tokens // corpus.tokens.shape[1])
  rows = runs.evenly_spaced(corpus.windows[settings.dataset], count)
  with tqdm.tqdm(
    total=len(trajectory.steps), desc='analyzing', disable=None
  ) as bar:
    found = readings.read_heads(
      jax.random.key(config.seed),
      model,
      trajectory,
      corpus.tokens[rows],
      num_sequences=settings.num_sequences,
      progress=functools.partial(_show, bar),
    )
  found = found.merge(
    readings.read_multigrams(
      jax.random.key(config.seed + 1),
      model,
      checkpoints.load(kept, trajectory.steps[-1]),
      corpus.tokens[rows],
      choices.texts(corpus, workdir / 'corpus'),
      multigrams.pair_odds(_rows_of(corpus, 'train')),
    )
  )
  languages = [
    name for name in synthetic.LANGUAGES if f'train/{name}' in corpus.windows
  ]
  if languages:
    text = planted_rows(languages[0], corpus, workdir / 'corpus', config.seed)
    losses = kind_losses(model, trajectory, text)
    last = checkpoints.load(kept, trajectory.steps[-1])
    attended = source_attention(model, last, text)
    found = xr.merge([found, losses, floors(languages[0]), attended])
  found.attrs['identity'] = json.dumps(identity)
  records.save_record(found, path)
  logging.info('%s: complete\n%s', path, table(found))
  return found


def draw(found: xr.Dataset) -> dict[str, figure.Figure]:
  """Draws the figures of what was analyzed, by name."""
  length = json.loads(found.attrs['identity'])['model']['context_length']
  even = {
    score: head_scores.even_attention(score, length)
    for score in head_scores.SCORES
  }
  drawn = {'heads': plots.head_readings(found, even)}
  if 'kind_loss' in found:
    drawn['kinds'] = plots.kind_losses(found)
  return drawn


def _rows_of(corpus: packing.Corpus, window: str) -> np.ndarray:
  start, length = corpus.windows[window]
  return corpus.tokens[int(start) : int(start + length)]


def planted_rows(
  name: str, corpus: packing.Corpus, directory: pathlib.Path, seed: int
) -> synthetic.Rows:
  """New text of a planted language, in the tokens of a corpus."""
  ids = tokenizers.load(directory / 'tokenizer.json').get_vocab()
  return synthetic.rows(
    synthetic.LANGUAGES[name],
    ids,
    corpus.eos_id,
    np.random.default_rng([seed, *name.encode()]),
    num_rows=_PLANTED_ROWS,
    length=corpus.tokens.shape[1],
  )


def kind_losses(
  model: attention_only.AttentionOnly,
  trajectory: types.Trajectory,
  text: synthetic.Rows,
) -> xr.Dataset:
  """Mean losses on the second half of rows, by the kind of the symbol.

  In the first half, what a symbol depends on may lie before the row.
  """
  half = text.tokens.shape[1] // 2
  kinds = text.kinds[:, half:]
  found = np.zeros((len(trajectory.steps), len(synthetic.KINDS)))
  losses_of = jax.jit(
    lambda params: token_losses.token_losses(model, params, text.tokens)
  )
  for k, step in enumerate(trajectory.steps):
    params = jax.tree.map(lambda leaf: leaf[0], trajectory.load([step]))
    losses = np.asarray(losses_of(params))[:, half - 1 :]
    for i in range(len(synthetic.KINDS)):
      found[k, i] = losses[kinds == i].mean() if (kinds == i).any() else np.nan
  return xr.Dataset(
    {'kind_loss': (('checkpoint', 'kind'), found)},
    {'checkpoint': list(trajectory.steps), 'kind': list(synthetic.KINDS)},
  )


def source_attention(
  model: attention_only.AttentionOnly,
  params: types.Params,
  text: synthetic.Rows,
) -> xr.Dataset:
  """How much each head attends to what tells a symbol, by its kind.

  From the position that predicts it; on a sample of what a kind has.

  Returns:
    `source_attention` over (layer, head, kind).
  """
  shape = model.num_layers, model.num_heads, len(synthetic.KINDS)
  found = np.full(shape, np.nan)
  for i in range(len(synthetic.KINDS)):
    rows, places = np.nonzero((text.kinds == i) & (text.sources >= 0))
    if not rows.size:
      continue
    chosen = np.linspace(0, rows.size - 1, _SAMPLE).astype(int)
    rows, places = rows[chosen], places[chosen]
    asked = text.tokens[rows], places - 1, text.sources[rows, places]
    questions = head_scores.Questions(*map(jnp.asarray, asked))
    weights = head_scores.attention_to(model, params, questions)
    found[..., i] = np.asarray(weights).mean(axis=-1)
  return xr.Dataset(
    {'source_attention': (('layer', 'head', 'kind'), found)},
    {'kind': list(synthetic.KINDS)},
  )


def floors(name: str) -> xr.Dataset:
  """The least losses that are possible, by kind."""
  laws = synthetic.laws(synthetic.LANGUAGES[name])
  values = [
    laws[kind].floor if kind in laws else np.nan for kind in synthetic.KINDS
  ]
  return xr.Dataset(
    {'kind_floor': ('kind', values)}, {'kind': list(synthetic.KINDS)}
  )


def table(found: xr.Dataset) -> str:
  """The last checkpoint: a line a head, and a line a kind of symbol."""
  last = found.isel(checkpoint=-1)
  names = [*head_scores.SCORES, 'ablation_resample']
  lines = [f'{"head":>6}' + ''.join(f'{name:>18}' for name in names)]
  for layer in range(last.sizes['layer']):
    for head in range(last.sizes['head']):
      values = [float(last[name][layer, head]) for name in names]
      cells = ''.join(f'{value:>18.4f}' for value in values)
      lines.append(f'{f"{layer}:{head}":>6}{cells}')
  if 'kind_loss' in last:
    heads = ''.join(
      f'{f"{layer}:{head}":>8}'
      for layer in range(last.sizes['layer'])
      for head in range(last.sizes['head'])
    )
    lines.append(
      f'{"kind":>16}{"loss":>10}{"floor":>10}{heads}  attention to the source'
    )
    for kind in last.kind.values:
      cell = last.sel(kind=kind)
      loss, floor = float(cell.kind_loss), float(cell.kind_floor)
      attended = cell.source_attention.values
      cells = ''.join(f'{x:>8.3f}' for x in attended.ravel())
      lines.append(
        f'{kind:>16}{loss:>10.4f}{floor:>10.4f}'
        + (cells if np.isfinite(attended).all() else '')
      )
  return '\n'.join(lines)


def _show(bar: tqdm.tqdm, done: int, total: int) -> None:
  del total
  bar.update(done - bar.n)


if __name__ == '__main__':
  commands.start(run)
