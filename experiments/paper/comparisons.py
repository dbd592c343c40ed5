"""Figures of rLLCs beside other measurements, and beside other settings."""

import dataclasses
from typing import Any

from matplotlib import figure
import numpy as np

from experiments.paper import saved
from experiments.paper import study
from rllc_jax.analysis import curves
from rllc_jax.analysis import head_types
from rllc_jax.analysis import readings as reading
from rllc_jax.plots import affected
from rllc_jax.plots import agreement
from rllc_jax.plots import memory
from rllc_jax.plots import panels
from rllc_jax.plots import sensitivity
from rllc_jax.refinement import names as naming


def ablation_clusters(made: saved.Saved) -> figure.Figure:
  """Clusters of ablation curves beside those of wrLLC curves."""
  text = saved.on(made.estimates(), made.settings.text)
  readings = made.readings()
  names = saved.names(text)
  ablation = reading.of_heads(readings.ablation_resample, names)
  sides = {
    'wrLLC': (text, saved.WRLLC),
    'ablation': (
      panels.as_curves(ablation, readings.checkpoint.values, names),
      'rise of the loss, nats',
    ),
  }
  classes = head_types.of_readings(readings)
  rows = []
  for title, (found, unit) in sides.items():
    row = []
    for layer, own in naming.heads_by_layer(names).items():
      labels, _ = made.clusters(own, found.llc.sel(refinement=own).values.T)
      index = curves.agreement(labels, [classes[name] for name in own])
      colors = panels.by_class(own, labels)
      full = f'Layer {layer}: {title} (index {index:.2f})'
      row.append(panels.Panel(full, unit, found, colors))
    rows.append(row)
  notes = [
    f'colors: clusters by {made.settings.method} k-means, curves scaled: '
    f'{made.settings.normalisation}',
    'index: adjusted Rand index with the classes of the heads',
  ]
  return panels.curves_over_training(rows, made.boundaries(), notes)


def baselines(made: saved.Saved) -> figure.Figure:
  """Draws wrLLC beside other measures of complexity."""
  text = saved.on(made.estimates(), made.settings.text)
  readings = made.readings()
  names = saved.names(text)
  measures = {
    'wrLLC': (text, saved.WRLLC),
    'Hessian trace': ('hessian_trace', 'nats / weight²'),
    'Fisher trace': ('fisher_trace', 'nats² / weight²'),
    'weight norm': ('weight_norm', 'weights'),
  }
  rows: list[list[panels.Panel]] = [[] for _ in naming.heads_by_layer(names)]
  for title, (measure, unit) in measures.items():
    found: Any = measure
    if isinstance(measure, str):
      values = reading.of_heads(readings[measure], names)
      found = panels.as_curves(values, readings.checkpoint.values, names)
    for row, panel in zip(
      rows, saved.by_layer(found, 'Layer {}: '), strict=True
    ):
      row.append(panel._replace(title=panel.title + title, unit=unit))
  return panels.curves_over_training(rows, made.boundaries(), saved.notes(text))


def stages(made: saved.Saved) -> figure.Figure:
  """What the model can do at each checkpoint."""
  readings = made.readings()
  steps = readings.checkpoint.values
  titles = {
    'bigram': ('Bigram cross-entropy', 'nats'),
    'in_context': ('In-context score', 'late less early loss, nats'),
    **{f'ngram_{n}': (f'{n}-gram score', 'ratio of losses') for n in (2, 3, 4)},
  }
  floor = float(readings.bigram_floor[-1])
  found = []
  for name, (title, unit) in titles.items():
    if name in readings:
      curve = panels.as_curves(readings[name].values[:, None], steps, [''])
      line = floor if name == 'bigram' else None
      panel = panels.Panel(
        title, unit, curve, panels.by_class([''], ['']), line
      )
      found.append(panel)
  heads = [
    f'{layer}:{head}'
    for layer, head in np.ndindex(
      readings.sizes['layer'], readings.sizes['head']
    )
  ]
  for name, title in (
    ('previous_token', 'Previous token'),
    ('prefix_matching_text', 'Prefix matching in text'),
  ):
    curve = panels.as_curves(
      reading.of_heads(readings[name], heads), steps, heads
    )
    unit = f'attention: {title.lower()}'  # Of its own: ranges differ.
    found.append(panels.Panel(title, unit, curve, panels.by_layer(heads)))
  # Those of the whole model, then those of heads.
  rows = [found[:-2], found[-2:]]
  notes = ['dashed: the entropy of pairs in the corpus']
  return panels.curves_over_training(rows, made.boundaries(), notes)


def memorisation(made: saved.Saved) -> figure.Figure:
  """Draws rLLCs against what is memorized, in the middle and at the end."""
  text = saved.on(made.estimates(), made.settings.text)
  readings = made.readings()
  count = readings.sizes['checkpoint']
  places = dict.fromkeys((count // 2, count - 1))  # The same if there are two.
  scatters = []
  for counted in (('num_ngrams',), ('num_ngrams', 'num_skip_ngrams')):
    for place in places:
      step = int(readings.checkpoint[place])
      for layer in naming.heads_by_layer(saved.names(text)):
        title = f'Layer {layer}, step {step:,}'
        scatters.append(
          saved.scatter(text, readings, place, counted, title, layer)
        )
  return memory.memory(scatters, 2 * len(places))


def tokens(made: saved.Saved) -> figure.Figure:
  """The tokens that each head matters most for."""
  return affected.affected_tokens(made.readings())


def settings(made: saved.Saved) -> figure.Figure:
  """Every head at the last checkpoint, one setting at a time varied."""
  own = saved.on(made.estimates().isel(checkpoint=-1), made.settings.text)
  sweeps = []
  for setting in study.SWEPT:
    found = {float(own.attrs[setting]): own}
    for path in sorted(made.workdir.glob(f'sweep_{setting}_*/')):
      at = made.estimates(path.name).isel(checkpoint=-1, dataset=0)
      found[float(at.attrs[setting])] = at
    sweeps.append(sensitivity.Sweep(setting, float(own.attrs[setting]), found))
  if all(len(sweep.estimates) < 2 for sweep in sweeps):
    raise ValueError(
      f'Stores sweep_SETTING_VALUE were expected in {made.workdir}, because '
      'settings are compared; got none. Run experiments.study on that workdir.'
    )
  return sensitivity.sensitivity(sweeps)


def cluster_methods(made: saved.Saved) -> figure.Figure:
  """Every way of clustering, on wrLLC curves and on other measures'."""
  text = saved.on(made.estimates(), made.settings.text)
  readings = made.readings()
  names = saved.names(text)
  measures = {
    'wrLLC': text.llc.sel(refinement=names).values,
    'ablation': reading.of_heads(readings.ablation_resample, names),
    'Hessian trace': reading.of_heads(readings.hessian_trace, names),
    'Fisher trace': reading.of_heads(readings.fisher_trace, names),
  }
  classes = head_types.of_readings(readings)
  layers = [
    own
    for own in naming.heads_by_layer(names).values()
    if len({classes[name] for name in own}) > 1
  ]
  found = {}
  for measure, values in measures.items():
    table = np.full(
      (len(curves.METHODS), len(curves.NORMALISATIONS), 2), np.nan
    )
    for i, j in np.ndindex(table.shape[:2]):
      how = saved.Saved(
        made.workdir,
        dataclasses.replace(
          made.settings,
          method=curves.METHODS[i],
          normalisation=curves.NORMALISATIONS[j],
        ),
      )
      scores = []
      for own in layers:
        places = [names.index(name) for name in own]
        clusters = how.clusters(own, values[:, places].T)
        agreed = curves.agreement(
          clusters.labels, [classes[name] for name in own]
        )
        scores.append((agreed, clusters.silhouette))
      if scores:
        table[i, j] = np.mean(scores, axis=0)
    found[measure] = table
  return agreement.agreement(found, curves.METHODS, curves.NORMALISATIONS)
