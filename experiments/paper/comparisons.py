"""Figures that compare rLLCs with other measures and with other settings."""

from collections.abc import Mapping
from collections.abc import Sequence

from matplotlib import figure
import numpy as np
import xarray as xr

from experiments.paper import saved
from experiments.paper import study
from rllc_jax.analysis import curves
from rllc_jax.analysis import readings as reading
from rllc_jax.plots import affected
from rllc_jax.plots import agreement
from rllc_jax.plots import memory
from rllc_jax.plots import panels
from rllc_jax.plots import sensitivity
from rllc_jax.refinement import names as naming

EARLY = 0.17  # Of training, where the paper looks at memory the first time.
_MEASURES = {
  'Hessian trace': ('hessian_trace', 'nats / weight²'),
  'Fisher trace of tokens': ('fisher_token_trace', 'nats² / weight²'),
  'Ablation': ('ablation_resample', 'nats lost'),
  'Weight norm': ('weight_norm', 'weights'),
}
_PERMUTATIONS = 500


def ablation_clusters(saved_study: saved.Saved) -> figure.Figure:
  """Draws clusters of ablation curves beside those of wrLLC curves."""
  text, readings = saved_study.text(), saved_study.readings()
  names, classes = saved.names(text), saved_study.classes()
  sides = {
    'wrLLC': (text, saved.WRLLC),
    'ablation': (
      saved.measured(readings, 'ablation_resample', names),
      'nats lost',
    ),
  }
  rows = []
  for title, (estimates, unit) in sides.items():
    row = []
    for layer, heads in naming.heads_by_layer(names).items():
      labels, _ = saved_study.clusters(
        heads, estimates.llc.sel(refinement=heads).values.T
      )
      index = curves.agreement(labels, [classes[name] for name in heads])
      colors = panels.by_group(heads, labels)
      full = f'Layer {layer}: {title} (index {index:.2f})'
      row.append(panels.Panel(full, unit, estimates, colors))
    rows.append(row)
  notes = [
    f'colors: clusters by {saved_study.settings.method} k-means, curves '
    f'scaled: {saved_study.settings.normalisation}',
    'index: adjusted Rand index with the classes of the heads',
    saved.BANDS,
  ]
  return panels.curves_over_training(
    rows,
    saved_study.boundaries(),
    notes,
    caption='Clusters of wrLLC curves and of ablation curves, each beside the '
    'classes that attention tells.',
  )


def baselines(saved_study: saved.Saved) -> figure.Figure:
  """Draws wrLLC beside other measures of complexity."""
  text, readings = saved_study.text(), saved_study.readings()
  names, classes = saved.names(text), saved_study.classes()
  measures = {'wrLLC': (text, saved.WRLLC)} | {
    title: (saved.measured(readings, name, names), unit)
    for title, (name, unit) in _MEASURES.items()
  }
  rows = [
    saved.by_layer(estimates, classes, 'Layer {}: ' + title, unit)
    for title, (estimates, unit) in measures.items()
  ]
  return panels.curves_over_training(
    rows,
    saved_study.boundaries(),
    saved.notes(text),
    caption='Which measure parts the classes of heads best?',
    classes=list(classes.values()),
  )


def stages(saved_study: saved.Saved) -> figure.Figure:
  """Draws scores of the model and of its heads at each checkpoint."""
  readings, classes = saved_study.readings(), saved_study.classes()
  titles = {
    'bigram': ('Bigram cross-entropy', 'nats'),
    'in_context': ('In-context score', 'late less early, nats'),
    **{f'ngram_{n}': (f'{n}-gram score', 'ratio of losses') for n in (2, 3, 4)},
  }
  floor = float(readings.bigram_floor[-1])
  of_model = []
  for name, (title, unit) in titles.items():
    if name in readings:
      line = {'bigram': floor, 'in_context': 0.0}.get(name, 1.0)
      curve = _of_model(readings, name)
      of_model.append(panels.Panel(title, unit, curve, {'': '#14255f'}, line))
  of_heads = []
  for name, title, kind in (
    ('previous_token_text', 'Previous token, in text', 'previous-token'),
    ('prefix_matching', 'Prefix matching, random tokens', 'induction'),
    ('prefix_matching_text', 'Prefix matching, in text', 'induction'),
  ):
    curve = saved.measured(readings, name, list(classes))
    # Names of all heads would cover each other.
    named = {head: kind for head in classes if classes[head] == kind}
    colors = panels.by_kind(list(classes), named)
    of_heads.append(panels.Panel(title, 'attention', curve, colors))
  return panels.curves_over_training(
    [of_model, of_heads],
    saved_study.boundaries(),
    [saved.BANDS, 'dashed: entropy of pairs, no effect of context, no gain'],
    caption='What the model learns, and when: pairs of tokens, words, use of '
    'context; below, the heads that come to do it.',
    classes=list(classes.values()),
  )


def _of_model(readings: xr.Dataset, name: str) -> xr.Dataset:
  column = lambda x: readings[x].values[:, None]
  error = f'{name}_error'
  errors = column(error) if error in readings else None
  steps = readings.checkpoint.values
  return panels.as_curves(column(name), steps, [''], errors)


def memorisation(saved_study: saved.Saved) -> figure.Figure:
  """Draws rLLCs against memorized multigrams, early and at the end."""
  text = saved_study.text()
  steps = text.checkpoint.values
  early = int(steps[np.argmin(abs(steps - EARLY * steps[-1]))])
  layers = naming.heads_by_layer(saved.names(text))
  scatters = [
    saved.scatter(saved_study, step, layer, f'Layer {layer}, step {step:,}')
    # Without duplicates: of two checkpoints both may be the last one.
    for step in dict.fromkeys((early, int(steps[-1])))
    for layer in layers
  ]
  return memory.memory(
    scatters,
    len(layers),
    'Do heads that memorized more multigrams have higher wrLLCs? Within a '
    'layer, early in training and at its end.',
  )


def tokens(saved_study: saved.Saved) -> figure.Figure:
  """Draws the tokens whose loss depends most on each head, at the end."""
  return _tokens(saved_study, -1)


def early_tokens(saved_study: saved.Saved) -> figure.Figure:
  """Draws the same early in training."""
  return _tokens(saved_study, 0)


def _tokens(saved_study: saved.Saved, place: int) -> figure.Figure:
  examples = saved_study.readings().isel(table_checkpoint=place)
  step = int(examples.table_checkpoint)
  return affected.affected_tokens(
    examples,
    saved_study.classes(),
    caption=f'Step {step:,}: predictions that suffer most without each head, '
    'in context; shaded by its attention from the token before.',
  )


def settings(saved_study: saved.Saved) -> figure.Figure:
  """Draws every head at the last checkpoint, varying one setting at a time."""
  base = saved_study.text().isel(checkpoint=-1)
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
  return sensitivity.sensitivity(
    sweeps,
    saved_study.classes(),
    'Half and twice each setting: levels change with γ and nβ, and with ε not '
    'at all; does the order of the heads?',
  )


def cluster_methods(saved_study: saved.Saved) -> figure.Figure:
  """Draws the agreement of every clustering method for every measure."""
  text, readings = saved_study.text(), saved_study.readings()
  names, classes = saved.names(text), saved_study.classes()
  # All measures at the checkpoints of the estimates.
  at = readings.sel(checkpoint=text.checkpoint.values)
  measures = {'wrLLC': text.llc.sel(refinement=names).values} | {
    title: reading.of_heads(at[name], names)
    for title, (name, _) in _MEASURES.items()
  }
  layers = [
    heads
    for heads in naming.heads_by_layer(names).values()
    if len({classes[name] for name in heads}) > 1  # Else nothing to recover.
  ]
  tables = {
    measure: np.array(
      [
        [
          _mean_index(values, names, layers, classes, method, scaling)
          for scaling in curves.NORMALISATIONS
        ]
        for method in curves.METHODS
      ]
    )
    for measure, values in measures.items()
  }
  return agreement.agreement(
    tables,
    curves.METHODS,
    curves.NORMALISATIONS,
    _chance(layers, classes),
    'Do clusters of curves recover the classes of heads? By measure, method '
    'and scaling.',
  )


def _mean_index(
  values: np.ndarray,
  names: Sequence[str],
  layers: Sequence[Sequence[str]],
  classes: Mapping[str, str],
  method: str,
  scaling: str,
) -> float:
  """Adjusted Rand index of curves [K, n], mean over layers; NaN without any."""
  indices = []
  for heads in layers:
    places = [names.index(name) for name in heads]
    kinds = [classes[name] for name in heads]
    labels = saved.cluster(
      values[:, places].T, len(set(kinds)), method, scaling
    ).labels
    indices.append(curves.agreement(labels, kinds))
  return float(np.mean(indices)) if indices else np.nan


def _chance(
  layers: Sequence[Sequence[str]], classes: Mapping[str, str]
) -> float:
  """The 95 % quantile of the mean index under permuted classes."""
  rng = np.random.default_rng(0)
  kinds = [[classes[name] for name in heads] for heads in layers]
  if not kinds:
    return 0.0
  means = [
    np.mean([curves.agreement(rng.permutation(x), x) for x in kinds])
    for _ in range(_PERMUTATIONS)
  ]
  return float(np.quantile(means, 0.95))
