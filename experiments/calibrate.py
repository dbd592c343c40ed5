"""Which step size to take: a sweep on some heads of a trained model.

  python -m experiments.calibrate --config=FILE --workdir=DIR

reads `DIR/corpus` and `DIR/train/checkpoints`, and the sections `calibration`
and `estimation` and the number `seed` of the config. It writes
`DIR/calibration.zarr` and `DIR/figures/calibration_*.png` and prints what it
recommends. Each setting is kept in `DIR/calibration` once it is done: a run
that was stopped goes on with the setting it was at, and a wider grid costs what
is new in it. Chains that fail are part of what is found out: they are counted
and change no exit status, but if all do, that is an error.
"""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
from matplotlib import figure
import ml_collections
import xarray as xr

from experiments.runtime import choices
from experiments.runtime import commands
from experiments.runtime import progress
from experiments.runtime import sections
import rllc_jax
from rllc_jax import checked_files
from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import calibration
from rllc_jax.analysis import recommendation
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.models import attention_only
from rllc_jax.plots import calibration as plots
from rllc_jax.plots import style
from rllc_jax.training import checkpoints

# What is in the identity of a sweep besides its grid.
_SHARED = (
  'burn_in',
  'num_chains',
  'num_draws',
  'num_steps_between_draws',
  'share_batches',
  'matmul_precision',
)


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> recommendation.Recommendation:
  """Sweeps, or reads what is complete; draws and recommends.

  Args:
    config: `calibration` has fields of `sections.Calibration`; the batch size
      and what else is not there are those of `estimation`.
    workdir: with the subdirectories `corpus` and `train`.

  Returns:
    What is recommended for all cells that were swept.

  Raises:
    ValueError: a setting makes no sense, or a name does not exist.
  """
  settings = sections.read(config)
  sweep = _sweep(settings, _build(settings, workdir), workdir / 'calibration')
  _save(sweep, workdir / 'calibration.zarr')
  found = recommendation.recommend(sweep)
  for name, drawn in _figures(sweep, found):
    path = workdir / 'figures' / f'calibration_{name}.png'
    checked_files.write_bytes(path, style.image(drawn, 'png'))
    logging.info('%s', path)
  print(text(sweep, found), flush=True)
  return found


def text(sweep: xr.Dataset, found: recommendation.Recommendation) -> str:
  """A line a cell with the step sizes that qualify, then the recommendation."""
  settings = found.each.stack(setting=('nbeta', 'localization'))
  cells = settings.stack(cell=('checkpoint', 'dataset', 'refinement'))
  labels = [f'nβ {b:g}, γ {g:g}' for b, g in settings.setting.values]
  lines = ['largest step size that qualifies:']
  lines.append(' ' * 32 + ''.join(f'{label:>18}' for label in labels))
  for place in cells.cell.values:
    step, dataset, name = place
    sizes = cells.sel(cell=place).values
    values = [f'{x:>18.4g}' if x > 0 else f'{"none":>18}' for x in sizes]
    lines.append(f'{f"{name}, {dataset}, step {step}":<32}{"".join(values)}')
  if failed := int(sweep.num_failed.sum()):
    lines.append(f'failed chains: {failed} of {sweep.failed.size}')
  return '\n'.join([*lines, found.why, *found.warnings])


class _Source(NamedTuple):
  """What is swept over, and what the numbers hang on besides the grid.

  Attributes:
    steps: of the checkpoints.
    windows: data sets by name.
    families: refinements.
    minibatches: of the corpus.
    plain_loss: for second derivatives.
    checkpoints: the directory.
    sampling: of `calibrate`, whatever the cell.
    layout: of `calibrate`.
    identity: what else makes the numbers what they are, JSON.
  """

  steps: Sequence[int]
  windows: Mapping[str, types.Window]
  families: tuple[types.Refinements, ...]
  minibatches: types.Minibatches
  plain_loss: types.LossFn
  checkpoints: pathlib.Path
  sampling: rllc_jax.Sampling
  layout: rllc_jax.Layout
  identity: Mapping[str, Any]


def _build(settings: sections.Settings, workdir: pathlib.Path) -> _Source:
  swept, estimation = settings.calibration, settings.estimation
  sampling = dataclasses.replace(
    settings.sampling, num_chains=swept.num_chains, num_draws=swept.num_draws
  )
  corpus = packing.load_corpus(workdir / 'corpus')
  kept = workdir / 'train' / 'checkpoints'
  steps = swept.checkpoints or checkpoints.steps(kept)[-1:]
  model = choices.trained_model(kept, corpus)
  apply = functools.partial(attention_only.apply, model)
  return _Source(
    checkpoints.trajectory(kept, steps).steps,
    _windows(swept.datasets, corpus),
    choices.families(
      swept.refinements, model, share_logits=estimation.share_logits
    ),
    minibatches.uniform(corpus.tokens, estimation.batch_size),
    losses.next_token_loss(apply),
    kept,
    sampling,
    settings.layout,
    {
      **{name: getattr(sampling, name) for name in _SHARED},
      'sampler': sampling.kernel.name,
      'seed': settings.seed,
      'batch_size': estimation.batch_size,
      'share_logits': estimation.share_logits,
      'data': trees.content_hash(corpus.tokens),
      'model': choices.model_sizes(model),
    },
  )


def _windows(
  names: Sequence[str], corpus: packing.Corpus
) -> dict[str, types.Window]:
  for name in names:
    if name not in corpus.windows:
      raise ValueError(
        'config.calibration.datasets must name windows of the corpus, '
        f'{", ".join(corpus.windows)}; got {name!r}.'
      )
  return {name: corpus.windows[name] for name in names}


def _sweep(
  settings: sections.Settings, source: _Source, kept: pathlib.Path
) -> xr.Dataset:
  """All cells: over the grid and (checkpoint, dataset, refinement)."""
  swept = settings.calibration
  parts: list[xr.Dataset] = []
  total = len(source.steps) * len(source.windows) * len(source.families)
  with progress.bar('calibrating', 'setting') as bar:
    for step in source.steps:
      params = checkpoints.load(source.checkpoints, step)
      for dataset, window in source.windows.items():
        for family in source.families:
          identity = {
            **source.identity,
            'params': trees.content_hash(params),
            'window': [int(value) for value in window],
            'refinements': family.names,
          }
          part = calibration.calibrate(
            jax.random.key(settings.seed, impl='threefry2x32'),
            family,
            params,
            source.minibatches,
            source.sampling,
            step_sizes=swept.step_sizes,
            nbetas=swept.nbetas,
            localizations=swept.localizations,
            window=window,
            layout=source.layout,
            plain_loss=source.plain_loss,
            num_curvature_batches=swept.num_curvature_batches,
            kept=_Kept(kept, identity),
            progress=functools.partial(_show, bar, len(parts), total),
          )
          parts.append(part.expand_dims(checkpoint=[step], dataset=[dataset]))
  sweep: Any = xr.combine_by_coords(parts, combine_attrs='override')
  dims = (*calibration.GRID_DIMS, 'checkpoint', 'dataset', 'refinement')
  sweep = sweep[list(parts[0])].transpose(*dims, ...)
  names = [name for family in source.families for name in family.names]
  return sweep.sel(dataset=list(source.windows), refinement=names)


class _Kept(collections.UserDict):
  """Settings that are done, in a directory of their own for each identity."""

  def __init__(self, directory: pathlib.Path, identity: Mapping[str, Any]):
    super().__init__()
    content = json.dumps(identity, indent=1, sort_keys=True).encode()
    name = hashlib.blake2b(content, digest_size=8).hexdigest()
    self.directory = directory / name
    checked_files.write_bytes(self.directory / 'identity.json', content)
    for path in self.directory.glob('setting_*.json'):
      saved = json.loads(path.read_text())
      setting = calibration.Setting(**saved['setting'])
      self.data[setting] = xr.Dataset.from_dict(saved['estimates'])

  def __setitem__(self, key, item):
    super().__setitem__(key, item)
    saved = {'setting': key._asdict(), 'estimates': item.to_dict()}
    name = '_'.join(map(str, key))
    path = self.directory / f'setting_{name}.json'
    checked_files.write_bytes(path, json.dumps(saved).encode())


def _save(sweep: xr.Dataset, path: pathlib.Path) -> None:
  """Replaces what an earlier sweep left, once the new one is whole."""
  with checked_files.replacing_directory(path) as beside:
    sweep.to_zarr(beside, mode='w', consolidated=False, zarr_format=2)
  logging.info('%s: complete', path)


def _figures(
  sweep: xr.Dataset, found: recommendation.Recommendation
) -> Iterator[tuple[str, figure.Figure]]:
  """A figure a checkpoint and data set; several if both others are swept."""
  y = 'nbeta' if sweep.sizes['nbeta'] > 1 else 'localization'
  fixed = 'localization' if y == 'nbeta' else 'nbeta'
  for step in sweep.checkpoint.values:
    for dataset in sweep.dataset.values:
      for value in sweep[fixed].values:
        place = {'checkpoint': step, 'dataset': dataset, fixed: value}
        name = f'{step}_{str(dataset).replace("/", "-")}'
        if sweep.sizes[fixed] > 1:
          name += f'_{fixed}_{value:g}'
        chosen = found.setting
        if chosen is not None and getattr(chosen, fixed) != value:
          chosen = None
        yield (
          name,
          plots.heat_maps(
            sweep.sel(place),
            y=y,
            step_sizes=found.each.sel(place),
            setting=None if chosen is None else chosen._asdict(),
          ),
        )


def _show(
  bar: progress.Bar, parts_done: int, parts: int, done: int, total: int
) -> None:
  bar.show(parts_done * total + done, parts * total)


if __name__ == '__main__':
  commands.start(run)
