"""Figures of rLLC curves: Fig. 1 to 4 of the paper, and the whole model."""

from matplotlib import figure
import numpy as np
import xarray as xr

from experiments.paper import saved
from rllc_jax.analysis import curves
from rllc_jax.analysis import head_types
from rllc_jax.plots import memory
from rllc_jax.plots import panels
from rllc_jax.plots import said_twice
from rllc_jax.refinement import names as naming


def classes(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 1: the last layer's curves by class and cluster, and memory."""
  text, kinds = saved_study.text(), saved_study.classes()
  layers = naming.heads_by_layer(saved.names(text))
  layer = max(layers)
  heads = layers[layer]
  labels, _ = saved_study.clusters(
    heads, text.llc.sel(refinement=heads).values.T
  )
  index = curves.agreement(labels, [kinds[name] for name in heads])
  by_class, by_cluster = (
    panels.by_kind(heads, kinds),
    panels.by_group(heads, labels),
  )
  drawn = [
    panels.Panel(f'Layer {layer}: classes', saved.WRLLC, text, by_class),
    panels.Panel('Clusters of the curves', saved.WRLLC, text, by_cluster),
  ]
  step = int(text.checkpoint[-1])
  return memory.classes_and_memory(
    drawn,
    saved.scatter(saved_study, step, layer, 'Memory'),
    [kinds[name] for name in heads],
    saved_study.boundaries(),
    saved.notes(text),
    'Left: heads of the last layer, colored by what they attend to. Middle: '
    'the same curves, colored by clusters that know the curves alone; adjusted '
    f'Rand index {index:.2f}. Right: do heads that memorized more have higher '
    'wrLLCs?',
  )


def heads(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 2: every head, with shaded stages."""
  text, kinds = saved_study.text(), saved_study.classes()
  row = saved.by_layer(text, kinds, 'Layer {}', saved.WRLLC)
  return panels.curves_over_training(
    [row],
    saved_study.boundaries(),
    saved.notes(text),
    caption='Heads of a layer start alike and grow apart; heads of one class '
    'have curves of one shape.',
    classes=list(kinds.values()),
  )


def datasets(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 3: the last layer on text, and its change on other data."""
  estimates, settings = saved_study.estimates(), saved_study.settings
  for name in (settings.text, *settings.datasets):
    saved.on(estimates, name)  # Raises where one is missing.
  return said_twice.parting(
    estimates,
    saved_study.classes(),
    settings.text,
    settings.datasets,
    'Data refinement: where text repeats itself, what induction heads do '
    'matters more, and their rLLCs rise against those of the other heads.',
  )


def multigram_circuit(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 4: heads against one layer, composition, joint cuts."""
  readings, kinds = saved_study.readings(), saved_study.classes()
  rows = [saved.by_layer(saved_study.text(), kinds, 'Layer {}', saved.WRLLC)]
  if (saved_study.workdir / 'reference').exists():
    reference = saved.on(
      saved_study.estimates('reference'), saved_study.settings.text
    )
    title = 'Layer {} against one layer'
    rows.append(saved.by_layer(reference, kinds, title, 'rLLC'))
  if 'composition_K' in readings:
    rows.append([_composed(readings, kinds), _cut(readings)])
  return panels.curves_over_training(
    rows,
    saved_study.boundaries(),
    [saved.BANDS, 'dashed: composition of random matrices'],
    caption='Multigram heads leave the first layer, compose with those of the '
    'last, and nested delimiters come to need them: against a one-layer model '
    'the first layer should fall late and the last one rise.',
    classes=list(kinds.values()),
  )


def _composed(readings: xr.Dataset, kinds: dict[str, str]) -> panels.Panel:
  """Mean K-composition of the pairs of each circuit, and of all others."""
  layers = naming.heads_by_layer(list(kinds))
  numbers = lambda layer, kind: [
    naming.place(name)[1] for name in layers[layer] if kinds[name] == kind
  ]
  first, last = min(layers), max(layers)
  scores = readings.composition_K.transpose('checkpoint', 'writer', 'reader')
  is_rest = np.ones(scores.shape[1:], bool)
  lines = {}
  for name, writer, reader in (
    ('multigram', head_types.MULTIGRAM, head_types.MULTIGRAM),
    ('induction', 'previous-token', 'induction'),
  ):
    pairs = np.ix_(numbers(first, writer), numbers(last, reader))
    is_rest[pairs] = False
    if is_rest[pairs].size:
      lines[name] = scores.values[:, pairs[0], pairs[1]].mean(axis=(1, 2))
  lines['all other'] = scores.values[:, is_rest].mean(axis=1)
  curve = panels.as_curves(
    np.stack(list(lines.values()), axis=1),
    readings.checkpoint.values,
    list(lines),
  )
  colors = panels.by_kind(list(lines), {x: x for x in lines})
  width = readings.attrs.get('d_model')
  random = None if width is None else float(width) ** -0.5
  return panels.Panel('Composition of pairs', 'K-score', curve, colors, random)


def _cut(readings: xr.Dataset) -> panels.Panel:
  """Rises of losses with first-layer heads cut from the last layer."""
  columns = {
    'multigram heads cut': 'joint_nested',
    'all others cut': 'joint_nested_control',
  }
  values = [
    readings[name].transpose('checkpoint', 'minibatch').values
    for name in columns.values()
  ]
  count = np.isfinite(values[0]).sum(axis=1).clip(2)
  errors = [
    np.nanstd(x, axis=1, ddof=1) / np.sqrt(count)
    if x.shape[1] > 1
    else 0 * x[:, 0]
    for x in values
  ]
  curve = panels.as_curves(
    np.stack([np.nanmean(x, axis=1) for x in values], axis=1),
    readings.checkpoint.values,
    list(columns),
    np.stack(errors, axis=1),
  )
  colors = panels.by_kind(list(columns), {'multigram heads cut': 'multigram'})
  colors['all others cut'] = '#6b7280'
  return panels.Panel('Nested delimiters', 'nats lost', curve, colors, 0.0)


def whole_model(saved_study: saved.Saved) -> figure.Figure:
  """Draws the drLLC: the whole model on every data set."""
  estimates = saved_study.estimates('full').isel(refinement=0, drop=True)
  # Panels draw a curve a refinement; here it is a curve a data set.
  estimates = estimates.rename(dataset='refinement')
  names = saved.names(estimates)
  panel = panels.Panel(
    'The whole model', 'LLC and drLLC', estimates, panels.by_group(names, names)
  )
  return panels.curves_over_training(
    [[panel]],
    saved_study.boundaries(),
    saved.notes(estimates),
    caption='One model has different LLCs on different data.',
  )
