"""Figures of rLLC curves: Fig. 1 to 4 of the paper, and the whole model."""

from absl import logging
from matplotlib import figure
import numpy as np

from experiments.paper import saved
from rllc_jax.analysis import head_types
from rllc_jax.plots import memory
from rllc_jax.plots import panels
from rllc_jax.refinement import names as naming

_SHORT = {
  'previous-token': 'prev',
  'current-token': 'cur',
  'induction': 'ind',
  head_types.MULTIGRAM: 'multi',
  head_types.OTHER: 'other',
}


def classes(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 1: clusters of the last layer's curves, classes, memory."""
  estimates, readings = saved_study.estimates(), saved_study.readings()
  text = saved.on(estimates, saved_study.settings.text)
  layers = naming.heads_by_layer(saved.names(text))
  names = layers[max(layers)]
  labels, _ = saved_study.clusters(
    names, text.llc.sel(refinement=names).values.T
  )
  panel = panels.Panel(
    f'Layer {max(layers)}', saved.WRLLC, text, panels.by_class(names, labels)
  )
  return memory.classes_and_memory(
    panel,
    head_types.of_readings(readings),
    saved.scatter(
      text, readings, -1, ('num_ngrams', 'num_skip_ngrams'), 'At the end'
    ),
    saved_study.boundaries(),
    saved.notes(estimates),
  )


def heads(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 2: every head, with shaded stages."""
  estimates = saved_study.estimates()
  text = saved.on(estimates, saved_study.settings.text)
  row = saved.by_layer(text, 'Layer {}')
  boundaries = saved_study.boundaries()
  return panels.curves_over_training([row], boundaries, saved.notes(estimates))


def datasets(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 3: induction heads on text and on other data."""
  estimates = saved_study.estimates()
  names = saved.names(estimates)
  classes = head_types.of_readings(saved_study.readings())
  induction = [name for name in names if classes[name] == 'induction']
  colors = panels.highlighted(names, induction)
  rows = []
  for layer, in_layer in naming.heads_by_layer(names).items():
    rows.append(
      [
        panels.Panel(
          f'Layer {layer}: {name}',
          'refined LLC (wdrLLC)',
          saved.on(estimates, name),
          {head: colors[head] for head in in_layer},
        )
        for name in (saved_study.settings.text, *saved_study.settings.datasets)
      ]
    )
  notes = ['colored: induction heads', *saved.notes(estimates)]
  return panels.curves_over_training(rows, saved_study.boundaries(), notes)


def multigram_circuit(saved_study: saved.Saved) -> figure.Figure:
  """Draws Fig. 4: multigram heads, against one layer too, and composition."""
  estimates, readings = saved_study.estimates(), saved_study.readings()
  names = saved.names(estimates)
  colors = panels.highlighted(names, saved.multigrams(names, readings))
  sides = {
    'next tokens': (estimates, saved.WRLLC),
    'against one layer': (
      saved_study.estimates('reference'),
      'rLLC against one layer',
    ),
  }
  rows = [
    [
      panels.Panel(
        f'Layer {layer}: {title}',
        unit,
        saved.on(side, saved_study.settings.text),
        {head: colors[head] for head in in_layer},
      )
      for layer, in_layer in naming.heads_by_layer(names).items()
    ]
    for title, (side, unit) in sides.items()
  ]
  if 'composition_K' in readings:
    rows.append(_compositions(readings, head_types.of_readings(readings)))
  else:
    logging.warning('no composition: the model has one layer')
  notes = ['colored: multigram heads', *saved.notes(estimates)]
  return panels.curves_over_training(rows, saved_study.boundaries(), notes)


def _compositions(readings, classes) -> list[panels.Panel]:
  """Panels of K-composition and of cut paths, by pairs of classes of heads."""
  kinds = list(dict.fromkeys(classes.values()))
  places = {naming.place(name): kind for name, kind in classes.items()}
  numbers = lambda layer, kind: [
    number
    for (head_layer, number), head_kind in places.items()
    if head_kind == kind and head_layer == layer
  ]
  # Composition is measured between the first and the last layer.
  last = max(layer for layer, _ in places)
  pairs = {
    f'{_SHORT[a]} → {_SHORT[b]}': (numbers(0, a), numbers(last, b))
    for a in kinds
    for b in kinds
    if numbers(0, a) and numbers(last, b)
  }
  drawn = []
  for name, title, unit in (
    ('composition_K', 'K-composition', 'score'),
    ('path_nested', 'Paths cut: nested brackets', 'rise of the loss, nats'),
  ):
    values = readings[name]
    if 'minibatch' in values.dims:  # Cut paths have errors, composition none.
      values = values.mean('minibatch')
    lines = [
      values.isel(writer=writers, reader=readers).mean(('writer', 'reader'))
      for writers, readers in pairs.values()
    ]
    curve = panels.as_curves(
      np.stack([line.values for line in lines], axis=1),
      readings.checkpoint.values,
      list(pairs),
    )
    drawn.append(
      panels.Panel(
        title, unit, curve, panels.by_class(list(pairs), list(pairs))
      )
    )
  return drawn


def whole_model(saved_study: saved.Saved) -> figure.Figure:
  """Draws the drLLC: the whole model on every data set."""
  estimates = saved_study.estimates('full').isel(refinement=0, drop=True)
  # Panels draw a curve a refinement; here it is a curve a data set.
  estimates = estimates.rename(dataset='refinement')
  names = saved.names(estimates)
  panel = panels.Panel(
    'The whole model', 'LLC and drLLC', estimates, panels.by_class(names, names)
  )
  notes = saved.notes(estimates)
  return panels.curves_over_training([[panel]], saved_study.boundaries(), notes)
