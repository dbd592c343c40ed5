"""Suggests settings for a run from curvature and noise, before any chain.

  python -m experiments.suggest --config=FILE --workdir=DIR

reads `DIR/corpus` and `DIR/train/checkpoints`, and the sections `estimation`
and `sampling` of the config: n beta, gamma, the number of chains and the batch
size are taken as they are. It looks at the last checkpoint, or at those of
`estimation.checkpoints`, and prints for every refinement the largest curvature
and what a run would give; one setting for all of them; and its plan, with time
and memory, at all checkpoints. Nothing is written.
"""

import itertools
import pathlib

from absl import flags
import jax
import ml_collections

from experiments.runtime import commands
from experiments.runtime import dry_run
from experiments.runtime import sections
from experiments.runtime import specs
from experiments.runtime import subjects
from rllc_jax.analysis import suggestion
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import plan as plans


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  relative_error: float = 0.05,
) -> suggestion.Suggestion:
  """Suggests a setting, and prints it with its plan.

  Args:
    config: `estimation` and `sampling` are read.
    workdir: with the subdirectories `corpus` and `train`.
    relative_error: standard error asked for, as a share of estimates.

  Raises:
    ValueError: a setting makes no sense, or a name does not exist.
  """
  settings = sections.read(config)
  suggested = _suggest(settings, workdir, relative_error)
  spec = specs.build(settings, workdir).spec
  plan = plans.plan_of(spec._replace(sampling=suggested.sampling), None)
  print(f'{text(suggested)}\n\n{dry_run.text(plan)}', flush=True)
  return suggested


def text(found: suggestion.Suggestion) -> str:
  """Text table of predictions, and the setting."""
  header = (
    'checkpoint',
    'refinement',
    'curvature',
    'llc',
    'step bias',
    'draws',
  )
  lines = [''.join(f'{name:>12}' for name in header)]
  names = found.each.refinement.values
  for step, name in itertools.product(found.each.checkpoint.values, names):
    values = found.each.sel(checkpoint=step, refinement=name)
    share = f'{100 * float(values.step_bias_share):.2g} %'
    lines.append(
      f'{step:>12}{name:>12}{float(values.curvature):>12.3g}'
      f'{float(values.llc):>12.3g}{share:>12}{int(values.num_draws):>12}'
    )
  sampling = found.sampling
  flags_of_setting = ' '.join(
    f'--config.sampling.{name}={getattr(sampling, name):.4g}'
    for name in ('nbeta', 'localization', 'step_size', 'num_draws')
  )
  burn_in = sampling.burn_in_draws * sampling.num_steps_between_draws
  return '\n'.join(
    [
      *lines,
      found.why,
      f'Chains forget their start in {found.relaxation:.1f} steps; the burn-in '
      f'is {burn_in}.',
      flags_of_setting,
    ]
  )


def _suggest(
  settings: sections.Settings, workdir: pathlib.Path, relative_error: float
) -> suggestion.Suggestion:
  estimation, sampling = settings.estimation, settings.sampling
  corpus = packing.load_corpus(workdir / 'corpus')
  subject = subjects.load(workdir, settings, corpus)
  trajectory = subject.trajectory
  if not estimation.checkpoints:
    trajectory = trajectory._replace(steps=trajectory.steps[-1:])
  dataset = estimation.datasets[0].partition('@')[0]
  return suggestion.suggest(
    jax.random.key(settings.seed, impl='threefry2x32'),
    subject.families(
      estimation.refinements, share_logits=estimation.share_logits
    ),
    trajectory,
    corpus.windows[dataset],
    minibatches.uniform(corpus.tokens, estimation.batch_size),
    nbeta=sampling.nbeta,
    localization=sampling.localization,
    relative_error=relative_error,
    num_chains=sampling.num_chains,
    plain_loss=subject.comparison.loss_fn,
  )


if __name__ == '__main__':
  # Defined here, so that importing this module adds no flag to other commands.
  RELATIVE_ERROR = flags.DEFINE_float(
    'relative_error', 0.05, 'Standard error asked for, as a share of estimates.'
  )
  commands.start(
    lambda config, workdir: run(config, workdir, RELATIVE_ERROR.value)
  )
