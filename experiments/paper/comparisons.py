"""Figures that compare rLLCs with other measures and with other settings."""

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


def ablation_clusters(saved_study: saved.Saved) -> figure.Figure:
  """Draws clusters of ablation curves beside those of wrLLC curves."""
  text = saved.on(saved_study.estimates(), saved_study.settings.text)
  readings = saved_study.readings()
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
  for title, (estimates, unit) in sides.items():
    row = []
    for layer, heads in naming.heads_by_layer(names).items():
      labels, _ = saved_study.clusters(
        heads, estimates.llc.sel(refinement=heads).values.T
      )
      index = curves.agreement(labels, [classes[name] for name in heads])
      colors = panels.by_class(heads, labels)
      full = f'Layer {layer}: {title} (index {index:.2f})'
      row.append(panels.Panel(full, unit, estimates, colors))
    rows.append(row)
  notes = [
    f'colors: clusters by {saved_study.settings.method} k-means, curves '
    f'scaled: {saved_study.settings.normalisation}',
    'index: adjusted Rand index with the classes of the heads',
  ]
  return panels.curves_over_training(rows, saved_study.boundaries(), notes)


def baselines(saved_study: saved.Saved) -> figure.Figure:
  """Draws wrLLC beside other measures of complexity."""
  text = saved.on(saved_study.estimates(), saved_study.settings.text)
  readings = saved_study.readings()
  names = saved.names(text)
  measures = {
    'wrLLC': (text, saved.WRLLC),
    'Hessian trace': ('hessian_trace', 'nats / weight²'),
    'Fisher trace': ('fisher_trace', 'nats² / weight²'),
    'weight norm': ('weight_norm', 'weights'),
  }
  rows: list[list[panels.Panel]] = [[] for _ in naming.heads_by_layer(names)]
  for title, (measure, unit) in measures.items():
    estimates: Any = measure
    if isinstance(measure, str):
      values = reading.of_heads(readings[measure], names)
      estimates = panels.as_curves(values, readings.checkpoint.values, names)
    for row, panel in zip(
      rows, saved.by_layer(estimates, 'Layer {}: '), strict=True
    ):
      row.append(panel._replace(title=panel.title + title, unit=unit))
  return panels.curves_over_training(
    rows, saved_study.boundaries(), saved.notes(text)
  )


def stages(saved_study: saved.Saved) -> figure.Figure:
  """Draws scores of the model and of its heads at each checkpoint."""
  readings = saved_study.readings()
  steps = readings.checkpoint.values
  titles = {
    'bigram': ('Bigram cross-entropy', 'nats'),
    'in_context': ('In-context score', 'late less early loss, nats'),
    **{f'ngram_{n}': (f'{n}-gram score', 'ratio of losses') for n in (2, 3, 4)},
  }
  floor = float(readings.bigram_floor[-1])
  drawn = []
  for name, (title, unit) in titles.items():
    if name in readings:
      curve = panels.as_curves(readings[name].values[:, None], steps, [''])
      line = floor if name == 'bigram' else None
      panel = panels.Panel(
        title, unit, curve, panels.by_class([''], ['']), line
      )
      drawn.append(panel)
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
    # Another unit for each score, because panels of a unit share their range.
    unit = f'attention: {title.lower()}'
    drawn.append(panels.Panel(title, unit, curve, panels.by_layer(heads)))
  # Scores of the model in the first row, of heads in the second.
  rows = [drawn[:-2], drawn[-2:]]
  notes = ['dashed: the entropy of pairs in the corpus']
  return panels.curves_over_training(rows, saved_study.boundaries(), notes)


def memorisation(saved_study: saved.Saved) -> figure.Figure:
  """Draws rLLCs against memorized multigrams, halfway and at the end."""
  text = saved.on(saved_study.estimates(), saved_study.settings.text)
  readings = saved_study.readings()
  count = readings.sizes['checkpoint']
  # Without duplicates: of two checkpoints both places are the last one.
  places = dict.fromkeys((count // 2, count - 1))
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


def tokens(saved_study: saved.Saved) -> figure.Figure:
  """Draws the tokens whose loss depends most on each head."""
  return affected.affected_tokens(saved_study.readings())


def settings(saved_study: saved.Saved) -> figure.Figure:
  """Draws every head at the last checkpoint, varying one setting at a time."""
  base = saved.on(
    saved_study.estimates().isel(checkpoint=-1), saved_study.settings.text
  )
  sweeps = []
  for setting in study.SWEPT:
    estimates = {float(base.attrs[setting]): base}
    for path in sorted(saved_study.workdir.glob(f'sweep_{setting}_*/')):
      # A sweep has one checkpoint and one data set.
      swept = saved_study.estimates(path.name).isel(checkpoint=-1, dataset=0)
      estimates[float(swept.attrs[setting])] = swept
    sweeps.append(
      sensitivity.Sweep(setting, float(base.attrs[setting]), estimates)
    )
  if all(len(sweep.estimates) < 2 for sweep in sweeps):
    raise ValueError(
      f'Stores sweep_SETTING_VALUE were expected in {saved_study.workdir}, '
      'because settings are compared; got none. Run experiments.study on that '
      'workdir.'
    )
  return sensitivity.sensitivity(sweeps)


def cluster_methods(saved_study: saved.Saved) -> figure.Figure:
  """Draws the agreement of every clustering method for every measure."""
  text = saved.on(saved_study.estimates(), saved_study.settings.text)
  readings = saved_study.readings()
  names = saved.names(text)
  measures = {
    'wrLLC': text.llc.sel(refinement=names).values,
    'ablation': reading.of_heads(readings.ablation_resample, names),
    'Hessian trace': reading.of_heads(readings.hessian_trace, names),
    'Fisher trace': reading.of_heads(readings.fisher_trace, names),
  }
  classes = head_types.of_readings(readings)
  layers = [
    heads
    for heads in naming.heads_by_layer(names).values()
    if len({classes[name] for name in heads}) > 1  # Else nothing to recover.
  ]
  tables = {}
  for measure, values in measures.items():
    table = np.full(
      (len(curves.METHODS), len(curves.NORMALISATIONS), 2), np.nan
    )
    for i, j in np.ndindex(table.shape[:2]):
      variant = saved.Saved(
        saved_study.workdir,
        dataclasses.replace(
          saved_study.settings,
          method=curves.METHODS[i],
          normalisation=curves.NORMALISATIONS[j],
        ),
      )
      scores = []
      for heads in layers:
        places = [names.index(name) for name in heads]
        clusters = variant.clusters(heads, values[:, places].T)
        agreed = curves.agreement(
          clusters.labels, [classes[name] for name in heads]
        )
        scores.append((agreed, clusters.silhouette))
      if scores:  # Otherwise the cell stays NaN, and is drawn empty.
        table[i, j] = np.mean(scores, axis=0)
    tables[measure] = table
  return agreement.agreement(tables, curves.METHODS, curves.NORMALISATIONS)
