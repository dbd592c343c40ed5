"""Figures over the studies of all seeds, from small files that they keep."""

from collections.abc import Mapping
import pathlib

from matplotlib import figure
import numpy as np
import pandas as pd

from experiments.paper import claim_runs
from experiments.paper import claims
from experiments.paper import pooling
from experiments.paper import saved
from rllc_jax import checked_files
from rllc_jax.plots import seeds

_REMEDY = 'Put back a copy, or make the figures of experiments.claims again.'


def effects(saved_study: saved.Saved) -> figure.Figure:
  """Draws the effect of every claim, by seed and pooled."""
  rows = []
  for (claim, language), by_seed in claim_runs.read_effects(
    saved_study.workdir
  ).items():
    values = np.array([x for x in by_seed.values() if np.isfinite(x)])
    pooled = pooling.pool(values.tolist())
    if pooled.num_seeds < 2:
      continue
    statement, least, _ = claims.CLAIMS[claim]
    word = pooling.verdict(pooled, least)
    is_first = not any(row.name.startswith(f'{claim} ') for row in rows)
    rows.append(
      seeds.Effect(
        f'{claim} {language}',
        statement if is_first else '',
        values,
        pooled.low,
        pooled.high,
        least,
        word,
      )
    )
  return seeds.effects(
    rows,
    'The claims of the paper over seeds, on real code and on a planted '
    'language. A bar right of 0 that reaches 1 makes a claim true, a bar left '
    'of 1 makes it false.',
  )


def curves(saved_study: saved.Saved) -> figure.Figure:
  """Draws mean wrLLC curves of each class of heads over seeds."""
  return seeds.curves(
    _runs(saved_study.workdir),
    'Classes of heads part in every seed: mean wrLLC of each class.',
  )


def classes(saved_study: saved.Saved) -> figure.Figure:
  """Draws the class of every head in every seed."""
  return seeds.class_map(
    _runs(saved_study.workdir),
    'How many heads of each class form, in each layer and seed.',
  )


def _runs(workdir: pathlib.Path) -> Mapping[str, list[seeds.Run]]:
  """The runs of each language, by seed."""
  runs: dict[str, list[tuple[int, seeds.Run]]] = {}
  for path in workdir.glob('*/claims.json'):
    record = checked_files.read_json(path, ('language', 'classes'), _REMEDY)
    table = pd.read_csv(path.parent / 'curves.csv')
    first = table.dataset.iloc[0]
    wide = table[table.dataset == first].pivot(
      index='checkpoint', columns='refinement', values='llc'
    )
    run = seeds.Run(
      wide.index.to_numpy(),
      {str(head): wide[head].to_numpy() for head in wide.columns},
      record['classes'],
    )
    runs.setdefault(record['language'], []).append((record['seed'], run))
  order = [x for x in claim_runs.LANGUAGES if x in runs]
  return {x: [run for _, run in sorted(runs[x], key=_seed)] for x in order}


def _seed(pair: tuple[int, seeds.Run]) -> int:
  return pair[0]
