"""A figure of the paper, drawn from a saved study.

  python -m experiments.figures --config=FILE --workdir=DIR

reads what experiments.study saved in DIR and writes `DIR/figures/NAME.png`.
FILE is one of `experiments/configs/paper`: one a figure. A figure that rests on
what `experiments.paper.claims` withdraws is stamped with the reasons.
"""

from collections.abc import Callable
from collections.abc import Mapping
import pathlib

from absl import logging
from matplotlib import figure
import ml_collections

from experiments.paper import claims
from experiments.paper import comparisons
from experiments.paper import curves_of_heads
from experiments.paper import saved
from experiments.runtime import choices
from experiments.runtime import commands
from experiments.runtime import sections
from rllc_jax import checked_files
from rllc_jax.analysis import head_types
from rllc_jax.plots import style

DRAWN: Mapping[str, Callable[[saved.Saved], figure.Figure]] = {
  'head_types': curves_of_heads.classes,
  'heads': curves_of_heads.heads,
  'datasets': curves_of_heads.datasets,
  'multigram_circuit': curves_of_heads.multigram_circuit,
  'whole_model': curves_of_heads.whole_model,
  'ablation_clusters': comparisons.ablation_clusters,
  'cluster_methods': comparisons.cluster_methods,
  'baselines': comparisons.baselines,
  'stages': comparisons.stages,
  'memorisation': comparisons.memorisation,
  'affected_tokens': comparisons.tokens,
  'sensitivity': comparisons.settings,
}

# By what is drawn: the claims it shows and the classes of heads it uses, for
# labels, as points, or as the grouping that clusters are compared with.
RESTS_ON: Mapping[str, tuple[str, ...]] = {
  'head_types': (head_types.MULTIGRAM, 'C4'),
  'multigram_circuit': (head_types.MULTIGRAM, 'C7a', 'C7b', 'C8'),
  'ablation_clusters': (head_types.MULTIGRAM,),
  'cluster_methods': (head_types.MULTIGRAM,),
  'memorisation': (head_types.MULTIGRAM, 'C4'),
}


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> pathlib.Path:
  """Draws the figure of a config.

  Args:
    config: `figure` has fields of `sections.Figure`.
    workdir: of a study.

  Returns:
    The file.

  Raises:
    OSError: the disk does not take it.
    ValueError: there is no such figure, or what it needs was not saved.
  """
  settings = sections.read(config).figure
  if settings.draws not in DRAWN:
    raise ValueError(
      f'config.figure.draws must be one of {", ".join(DRAWN)}; got '
      f'{settings.draws!r}.'
    )
  workdir = pathlib.Path(workdir)
  name = choices.directory_name('figure.name', settings.name)
  drawn = DRAWN[settings.draws](saved.Saved(workdir, settings))
  reasons = claims.withdrawn(*RESTS_ON.get(settings.draws, ()))
  if reasons:
    style.stamp(drawn, reasons)
  path = workdir / 'figures' / f'{name}.png'
  checked_files.write_bytes(path, style.image(drawn, 'png'))
  logging.info('%s', path)
  return path


def main() -> None:
  """The command."""
  commands.start(run)
