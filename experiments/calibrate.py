"""Recommends a step size from a sweep on some heads of a trained model.

  python -m experiments.calibrate --config=FILE --workdir=DIR

reads `DIR/corpus` and `DIR/train/checkpoints`, and the sections `calibration`
and `estimation` and the number `seed` of the config. It writes
`DIR/calibration.zarr` and `DIR/figures/calibration_*.png` and prints the
recommendation. Each finished setting is saved in `DIR/calibration`: a stopped
run resumes at the setting it was at, and a wider grid only samples the new
settings. Failed chains are a result of the sweep: they are counted and don't
change the exit status, unless all chains fail, which is an error.
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

from experiments.runtime import commands
from experiments.runtime import progress
from experiments.runtime import sections
from experiments.runtime import subjects
import rllc_jax
from rllc_jax import checked_files
from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import calibration
from rllc_jax.analysis import recommendation
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.models import architecture
from rllc_jax.models import transformer
from rllc_jax.plots import calibration as plots
from rllc_jax.plots import style

# Settings of `sampling` in a sweep's identity. The grid is not in it, so that a
# wider grid reuses the settings that are done.
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
  """Sweeps the grid, draws heat maps and recommends a setting.

  Args:
    config: `calibration` has fields of `sections.Calibration`; the batch size
      and other missing settings are those of `estimation`.
    workdir: with the subdirectories `corpus` and `train`.

  Returns:
    The recommendation for all swept cells.

  Raises:
    ValueError: a setting makes no sense, or a name does not exist.
  """
  settings = sections.read(config)
  sweep = _sweep(settings, _build(settings, workdir), workdir / 'calibration')
  _save(sweep, workdir / 'calibration.zarr')
  recommended = recommendation.recommend(sweep)
  for name, plot in _figures(sweep, recommended):
    path = workdir / 'figures' / f'calibration_{name}.png'
    checked_files.write_bytes(path, style.image(plot, 'png'))
    logging.info('%s', path)
  print(text(sweep, recommended), flush=True)
  return recommended


def text(sweep: xr.Dataset, recommended: recommendation.Recommendation) -> str:
  """Text table of qualifying step sizes by cell, and the recommendation."""
  settings = recommended.each.stack(setting=('nbeta', 'localization'))
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
  return '\n'.join([*lines, recommended.why, *recommended.warnings])


class _Source(NamedTuple):
  """Model, data and settings of a sweep, other than its grid.

  Attributes:
    trajectory: the checkpoints.
    windows: data sets by name.
    families: refinements.
    minibatches: of the corpus.
    plain_loss: for second derivatives.
    sampling: of `calibrate`, the same in every cell.
    layout: of `calibrate`.
    identity: further inputs that the numbers depend on, JSON.
  """

  trajectory: types.Trajectory
  windows: Mapping[str, types.Window]
  families: tuple[types.Refinements, ...]
  minibatches: types.Minibatches
  plain_loss: types.LossFn
  sampling: rllc_jax.Sampling
  layout: rllc_jax.Layout
  identity: Mapping[str, Any]


def _build(settings: sections.Settings, workdir: pathlib.Path) -> _Source:
  swept, estimation = settings.calibration, settings.estimation
  sampling = dataclasses.replace(
    settings.sampling,
    num_chains=swept.num_chains,
    num_draws=swept.num_draws,
    target_error=None,
  )
  corpus = packing.load_corpus(workdir / 'corpus')
  subject = subjects.of_all_checkpoints(workdir, settings, corpus)
  model, trajectory = subject.model, subject.trajectory
  steps = swept.checkpoints or trajectory.steps[-1:]
  subjects.check_steps(trajectory, steps, 'calibration')
  apply = functools.partial(transformer.apply, model)
  return _Source(
    trajectory._replace(steps=steps),
    _windows(swept.datasets, corpus),
    subjects.families(
      swept.refinements, model, share_logits=estimation.share_logits
    ),
    minibatches.uniform(corpus.tokens, estimation.batch_size),
    losses.next_token_loss(apply),
    sampling,
    settings.layout,
    {
      **{name: getattr(sampling, name) for name in _SHARED},
      'sampler': sampling.kernel.name,
      'seed': settings.seed,
      'batch_size': estimation.batch_size,
      'share_logits': estimation.share_logits,
      'data': trees.content_hash(corpus.tokens),
      'model': architecture.to_json(model),
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
  settings: sections.Settings, source: _Source, directory: pathlib.Path
) -> xr.Dataset:
  """Sweeps the grid over all cells (checkpoint, dataset, refinement)."""
  swept = settings.calibration
  parts: list[xr.Dataset] = []
  steps = source.trajectory.steps
  total = len(steps) * len(source.windows) * len(source.families)
  with progress.bar('calibrating', 'setting') as bar:
    for step in steps:
      stacked = source.trajectory.load([step])
      params = jax.tree.map(lambda leaf: leaf[0], stacked)
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
            cache=_SavedSettings(directory, identity),
            progress=functools.partial(_show, bar, len(parts), total),
          )
          parts.append(part.expand_dims(checkpoint=[step], dataset=[dataset]))
  # It sorts coordinates, variables and dimensions: the order is restored below.
  sweep: Any = xr.combine_by_coords(parts, combine_attrs='override')
  dims = (*calibration.GRID_DIMS, 'checkpoint', 'dataset', 'refinement')
  sweep = sweep[list(parts[0])].transpose(*dims, ...)
  names = [name for family in source.families for name in family.names]
  return sweep.sel(dataset=list(source.windows), refinement=names)


class _SavedSettings(collections.UserDict):
  """Finished settings of a sweep, as files in a directory by its identity."""

  def __init__(self, directory: pathlib.Path, identity: Mapping[str, Any]):
    super().__init__()
    content = json.dumps(identity, indent=1, sort_keys=True).encode()
    name = hashlib.blake2b(content, digest_size=8).hexdigest()
    self.directory = directory / name
    # For readers; the directory's name is what tells identities apart.
    checked_files.write_bytes(self.directory / 'identity.json', content)
    # Those of an earlier grid, too: a wider one reuses them.
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
  """Writes the sweep beside an earlier one, then replaces that."""
  with checked_files.replacing_directory(path) as beside:
    sweep.to_zarr(beside, mode='w', consolidated=False, zarr_format=2)
  logging.info('%s: complete', path)


def _figures(
  sweep: xr.Dataset, recommended: recommendation.Recommendation
) -> Iterator[tuple[str, figure.Figure]]:
  """Yields a heat map a checkpoint and data set.

  If both nβ and γ are swept, there is one for each γ.
  """
  y = 'nbeta' if sweep.sizes['nbeta'] > 1 else 'localization'
  fixed = 'localization' if y == 'nbeta' else 'nbeta'
  for step in sweep.checkpoint.values:
    for dataset in sweep.dataset.values:
      for value in sweep[fixed].values:
        place = {'checkpoint': step, 'dataset': dataset, fixed: value}
        name = f'{step}_{str(dataset).replace("/", "-")}'
        if sweep.sizes[fixed] > 1:
          name += f'_{fixed}_{value:g}'
        # Marked only on the map that contains it.
        chosen = recommended.setting
        if chosen is not None and getattr(chosen, fixed) != value:
          chosen = None
        yield (
          name,
          plots.heat_maps(
            sweep.sel(place),
            y=y,
            step_sizes=recommended.each.sel(place),
            setting=None if chosen is None else chosen._asdict(),
          ),
        )


def _show(
  bar: progress.Bar, parts_done: int, parts: int, done: int, total: int
) -> None:
  bar.show(parts_done * total + done, parts * total)


if __name__ == '__main__':
  commands.start(run)
