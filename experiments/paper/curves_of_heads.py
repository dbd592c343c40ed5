"""Figures of rLLC curves: the paper's first four, and the whole model's."""

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


def classes(made: saved.Saved) -> figure.Figure:
  """Fig. 1: clusters of the last layer's curves, classes, memory."""
  estimates, readings = made.estimates(), made.readings()
  text = saved.on(estimates, made.settings.text)
  layers = naming.heads_by_layer(saved.names(text))
  names = layers[max(layers)]
  labels, _ = made.clusters(names, text.llc.sel(refinement=names).values.T)
  panel = panels.Panel(
    f'Layer {max(layers)}', saved.WRLLC, text, panels.by_class(names, labels)
  )
  return memory.classes_and_memory(
    panel,
    head_types.of_readings(readings),
    saved.scatter(
      text, readings, -1, ('num_ngrams', 'num_skip_ngrams'), 'At the end'
    ),
    made.boundaries(),
    saved.notes(estimates),
  )


def heads(made: saved.Saved) -> figure.Figure:
  """Fig. 2: every head, stages shaded."""
  estimates = made.estimates()
  text = saved.on(estimates, made.settings.text)
  row = saved.by_layer(text, 'Layer {}')
  boundaries = made.boundaries()
  return panels.curves_over_training([row], boundaries, saved.notes(estimates))


def datasets(made: saved.Saved) -> figure.Figure:
  """Fig. 3: induction heads on text and on other data."""
  estimates = made.estimates()
  names = saved.names(estimates)
  classes = head_types.of_readings(made.readings())
  induction = [name for name in names if classes[name] == 'induction']
  colors = panels.highlighted(names, induction)
  rows = []
  for layer, own in naming.heads_by_layer(names).items():
    rows.append(
      [
        panels.Panel(
          f'Layer {layer}: {name}',
          'refined LLC (wdrLLC)',
          saved.on(estimates, name),
          {head: colors[head] for head in own},
        )
        for name in (made.settings.text, *made.settings.datasets)
      ]
    )
  notes = ['colored: induction heads', *saved.notes(estimates)]
  return panels.curves_over_training(rows, made.boundaries(), notes)


def multigram_circuit(made: saved.Saved) -> figure.Figure:
  """Fig. 4: multigram heads, on text and against one layer; composition."""
  estimates, readings = made.estimates(), made.readings()
  names = saved.names(estimates)
  colors = panels.highlighted(names, saved.multigrams(names, readings))
  sides = {
    'next tokens': (estimates, saved.WRLLC),
    'against one layer': (
      made.estimates('reference'),
      'rLLC against one layer',
    ),
  }
  rows = [
    [
      panels.Panel(
        f'Layer {layer}: {title}',
        unit,
        saved.on(found, made.settings.text),
        {head: colors[head] for head in own},
      )
      for layer, own in naming.heads_by_layer(names).items()
    ]
    for title, (found, unit) in sides.items()
  ]
  if 'composition_K' in readings:
    rows.append(_compositions(readings, head_types.of_readings(readings)))
  else:
    logging.warning('no composition: the model has one layer')
  notes = ['colored: multigram heads', *saved.notes(estimates)]
  return panels.curves_over_training(rows, made.boundaries(), notes)


def _compositions(readings, classes) -> list[panels.Panel]:
  """K-composition and cut paths, mean over pairs of classes of heads."""
  kinds = list(dict.fromkeys(classes.values()))
  places = {naming.place(name): kind for name, kind in classes.items()}
  of = lambda layer, kind: [
    number
    for (own_layer, number), own in places.items()
    if own == kind and own_layer == layer
  ]
  last = max(layer for layer, _ in places)
  pairs = {
    f'{_SHORT[a]} → {_SHORT[b]}': (of(0, a), of(last, b))
    for a in kinds
    for b in kinds
    if of(0, a) and of(last, b)
  }
  found = []
  for name, title, unit in (
    ('composition_K', 'K-composition', 'score'),
    ('path_nested', 'Paths cut: nested brackets', 'rise of the loss, nats'),
  ):
    values = readings[name]
    if 'minibatch' in values.dims:
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
    found.append(
      panels.Panel(
        title, unit, curve, panels.by_class(list(pairs), list(pairs))
      )
    )
  return found


def whole_model(made: saved.Saved) -> figure.Figure:
  """drLLC: the whole model on every data set."""
  found = made.estimates('full').isel(refinement=0, drop=True)
  found = found.rename(dataset='refinement')
  names = saved.names(found)
  panel = panels.Panel(
    'The whole model', 'LLC and drLLC', found, panels.by_class(names, names)
  )
  notes = saved.notes(found)
  return panels.curves_over_training([[panel]], made.boundaries(), notes)
