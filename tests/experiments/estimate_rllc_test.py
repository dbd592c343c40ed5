"""Estimates from checkpoints on disk, with some failing chains."""

import json
import pathlib

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from experiments import demo
from experiments import estimate_rllc
from experiments import report
from experiments import train
from experiments import verify
from experiments.runtime import commands
from experiments.runtime import dry_run
from experiments.runtime import sections
from experiments.runtime import subjects
from rllc_jax import losses as rllc_losses
from rllc_jax.data import packing
from rllc_jax.data import tokenizers
from rllc_jax.estimators import health
from rllc_jax.estimators import llc
from rllc_jax.estimators import plan as plans
from rllc_jax.models import transformer
from rllc_jax.report import tables
from rllc_jax.results import disk
from rllc_jax.training import checkpoints
from tests import binaries
from tests.estimators import toy
from tests.experiments import train_test

ROOT = pathlib.Path(__file__).parents[2]
ESTIMATION = {
  'refinements': ('0:0', 'unembed'),
  'checkpoints': (30, 31),
  'batch_size': 4,
}
SAMPLING = {'num_chains': 2, 'num_draws': 30}
CONFIG = f"""
from experiments.runtime import sections

def get_config():
  return sections.make_config(
    seed=3, estimation={ESTIMATION}, sampling={SAMPLING})
"""


def config(**changes):
  """A config with changes to the section `estimation` or `sampling`."""
  names = sections.defaults('sampling')
  sampling = {x: changes.pop(x) for x in [*changes] if x in names}
  return sections.make_config(
    seed=3, estimation=ESTIMATION | changes, sampling=SAMPLING | sampling
  )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run whose checkpoint 31 is the function of 30, with a steep last layer.

  What that layer reads is 1,000 times larger and its weights as much smaller,
  so their curvature is 1e6 times what it was: beyond 4 / epsilon, by far.
  """
  workdir = tmp_path_factory.mktemp('run')
  train_test.write_corpus(workdir)
  train.run(train_test.read_config(), workdir)
  directory = workdir / 'train' / 'checkpoints'
  params = jax.tree.map(np.copy, checkpoints.load(directory, 30))
  for name in ('w', 'b'):
    params['ln_final'][name] *= 1000
  params['unembed']['W_U'] /= 1000
  checkpoints.save(directory, 31, params, checkpoints.metadata(directory))
  return workdir


def copy_of(trained, path):
  """A run with the same corpus and checkpoints, and no estimates."""
  for name in ('corpus', 'train'):
    (path / name).symlink_to(trained / name)
  return path


def stored(workdir, name='rllc'):
  return disk.open_store(workdir / name).read()


@pytest.fixture(scope='module')
def failed(trained, tmp_path_factory):
  """A run of the command whose chains of the last layer fail at step 31."""
  workdir = copy_of(trained, tmp_path_factory.mktemp('failed'))
  path = workdir / 'config.py'
  path.write_text(CONFIG)
  flags = f'--config={path}', f'--workdir={workdir}'
  return workdir, binaries.run('estimate_rllc', *flags)


def test_exit_3_and_names_of_failed_chains(failed):
  _, done = failed
  assert done.returncode == commands.STATUS_OF_FAILED_CHAINS == 3
  last = done.stderr.splitlines()[-1]
  assert last.startswith('estimate_rllc: done, but 2 of 8 chains failed')
  assert 'In config.sampling: lower step_size' in last
  assert 'unembed at step 31 on train: chains 0 and 1 failed' in done.stderr
  assert (
    'unembed: not healthy at 1 of 2 checkpoints: ' in done.stderr
    and 'no estimate: all 2 chains failed (step 31): lower' in done.stderr
  )


def test_remaining_cells_are_written_with_verdicts(failed):
  workdir, _ = failed
  table = pd.read_csv(workdir / 'estimates.csv').set_index(
    ['checkpoint', 'refinement']
  )
  assert table.index.tolist() == [
    (30, '0:0'),
    (30, 'unembed'),
    (31, '0:0'),
    (31, 'unembed'),
  ]
  lost = table.loc[31, 'unembed']
  assert np.isnan(lost.llc) and lost.failed_chains == '0 1'
  assert lost.verdict == (
    'no estimate: all 2 chains failed: lower step_size or raise localization'
  )
  rest = table.drop(index=(31, 'unembed'))
  assert np.isfinite(rest.llc).all()
  assert rest.failed_chains.isna().all()
  assert (rest.num_failed == 0).all()
  # The head does not see what became of another refinement's chains.
  traces = stored(workdir)
  alone = llc.llc_from_traces(traces.sel(refinement='0:0'))
  for name in ('llc', 'standard_error', 'distance', 'rhat', 'ess'):
    np.testing.assert_allclose(
      table[name].xs('0:0', level='refinement'), alone[name].values.ravel()
    )
  verdicts = table.verdict.xs('0:0', level='refinement').tolist()
  assert verdicts == alone.verdict.values.ravel().tolist()


def test_exit_0_when_requested_cells_have_no_failed_chain(failed):
  """The CSV file still has all cells of the store."""
  workdir, _ = failed
  estimates = estimate_rllc.run(config(checkpoints=(30,)), workdir)
  assert estimates is not None and estimates.checkpoint.values.tolist() == [30]
  assert len(pd.read_csv(workdir / 'estimates.csv')) == 4


def test_estimates_do_not_depend_on_the_checkpoints_in_memory(
  failed, monkeypatch
):
  workdir, _ = failed
  settings = config(checkpoints=(30,))
  expected = estimate_rllc.run(settings, workdir)
  table = (workdir / 'estimates.csv').read_bytes()
  monkeypatch.setattr(estimate_rllc, '_MAX_BYTES', 1)
  xr.testing.assert_identical(estimate_rllc.run(settings, workdir), expected)
  assert (workdir / 'estimates.csv').read_bytes() == table


def test_traces_in_memory_are_within_the_limit_whatever_is_recorded(
  tmp_path, monkeypatch
):
  toy.run(
    refinements=[toy.family(0)],
    trajectory=toy.trajectory(toy.STEPS[:5]),
    observe=lambda position, context: {'weights': position['W']},
    store=disk.open_store(tmp_path),
  )
  store, sizes = disk.open_store(tmp_path), []
  extent = store.extent._replace(checkpoints=toy.STEPS[:1])
  limit = 2 * store.read(extent).nbytes
  monkeypatch.setattr(estimate_rllc, '_MAX_BYTES', limit)
  read = store.read

  def measure(extent):
    traces = read(extent)
    assert traces.nbytes <= limit
    sizes.append(traces.sizes['checkpoint'])
    return traces

  monkeypatch.setattr(store, 'read', measure)
  estimates = estimate_rllc._estimates(store)
  assert sizes == [1, 2, 2]  # The first tells how many fit.
  xr.testing.assert_identical(estimates, llc.llc_from_traces(read()))


def test_demo_makes_its_report_and_then_raises_chains_failed(
  failed, monkeypatch
):
  workdir, _ = failed
  steps = [('estimates', estimate_rllc.run), ('report', report.run)]
  monkeypatch.setattr(demo, 'STEPS', steps)
  with pytest.raises(commands.ChainsFailed, match='2 of 8 chains failed'):
    demo.run(config(), workdir)
  html = (workdir / 'report.html').read_text('utf-8')
  assert 'step 31, train: unembed' in html


def test_error_names_the_setting_if_all_chains_fail(failed):
  workdir, _ = failed
  lost = config(checkpoints=(31,), refinements=('unembed',))
  with pytest.raises(ValueError, match='2 of 2 that did not. In config.sam'):
    estimate_rllc.run(lost, workdir)


@pytest.mark.long
def test_acceptance_is_recorded_if_configured(trained, tmp_path):
  workdir = copy_of(trained, tmp_path)
  recording = config(
    checkpoints=(30,),
    refinements=('unembed',),
    sampler='sgld_with_mala_acceptance',
    step_size=1e-3,
  )
  estimate_rllc.run(recording, workdir)
  traces = stored(workdir)
  late = traces.mala_acceptance.isel(draw=slice(50, None))
  (row,) = pd.read_csv(workdir / 'estimates.csv').itertuples()
  np.testing.assert_allclose(row.mala_acceptance, late.mean(), rtol=1e-6)
  # The formula of samplers.mala at a = gamma and d = 108 gives 0.92.
  assert 0.8 < row.mala_acceptance < 0.95


@pytest.mark.long
def test_weighted_data_sets_can_be_added_to_a_store(trained, tmp_path):
  """Baseline losses equal the means over the tokens of the property."""
  workdir = copy_of(trained, tmp_path)
  few = dict(refinements=('0:0', '0:1'), checkpoints=(30,))
  estimate_rllc.run(config(**few), workdir)
  first = stored(workdir)
  names = ('train', 'train@late', 'train@bracket')
  estimate_rllc.run(config(**few, datasets=names), workdir)
  traces = stored(workdir)
  xr.testing.assert_equal(
    traces.sel(dataset=['train']).drop_vars('made_with'),
    first.drop_vars('made_with'),
  )
  corpus = packing.load_corpus(workdir / 'corpus')
  params = checkpoints.load(workdir / 'train' / 'checkpoints', 30)
  model = subjects.trained_model(workdir / 'train' / 'checkpoints', corpus)
  rows = corpus.tokens[:40].astype(int)
  logits = transformer.apply(model, params, rows[:, :-1])
  losses = np.asarray(rllc_losses.cross_entropy(logits, rows[:, 1:]))
  texts = tokenizers.load(workdir / 'corpus' / 'tokenizer.json')
  expected = {
    'train': losses.mean(),
    'train@late': losses[:, 7 // 2 - 1 :].mean(),
    'train@bracket': losses[rows[:, 1:] == texts.token_to_id(')')].mean(),
  }
  assert len({round(float(value), 2) for value in expected.values()}) == 3
  for name, value in expected.items():
    baseline = traces.baseline_loss.sel(dataset=name).isel(checkpoint=0)
    error = baseline.std() / np.sqrt(baseline.size)
    assert abs(baseline.mean() - value) < 5 * error


def test_baseline_loss_is_the_divergence_from_a_reference_model(
  trained, tmp_path
):
  """The reference is trained on the same corpus; the store is separate."""
  workdir = copy_of(trained, tmp_path)
  smaller = train_test.read_config()
  smaller.model.num_layers, smaller.training.name = 1, 'one_layer'
  train.run(smaller, workdir)
  few = dict(checkpoints=(30,), refinements=('0:0',), name='kl')
  settings = config(**few, reference='one_layer')
  estimate_rllc.run(settings, workdir)
  traces = stored(workdir, 'kl')
  assert not (workdir / 'rllc').exists()
  assert len(pd.read_csv(workdir / 'kl.csv')) == 1
  identity = json.loads(traces.attrs['identity'])['provenance']
  assert identity['loss'] == 'KL(reference || model)'
  assert identity['reference']['num_layers'] == 1
  corpus = packing.load_corpus(workdir / 'corpus')
  inputs = corpus.tokens[:40, :-1].astype(int)
  logits = []
  for name in ('train', 'one_layer'):
    directory = workdir / name / 'checkpoints'
    model = subjects.trained_model(directory, corpus)
    logits.append(
      transformer.apply(model, checkpoints.load(directory, 30), inputs)
    )
  expected = float(np.mean(rllc_losses.kl_divergence(*logits)))
  baseline = traces.baseline_loss
  assert abs(baseline.mean() - expected) < 5 * baseline.std() / np.sqrt(
    baseline.size
  )
  with pytest.raises(ValueError, match='provenance'):
    estimate_rllc.run(config(**few), workdir)


@pytest.mark.parametrize('name', ['../kl', '', 'a/b', '.hidden'])
def test_a_store_outside_the_workdir_is_refused(trained, tmp_path, name):
  workdir = copy_of(trained, tmp_path)
  with pytest.raises(ValueError, match='names a directory in the workdir'):
    estimate_rllc.run(config(name=name), workdir)


def test_a_plan_is_printed_and_nothing_is_stored(trained, tmp_path, capsys):
  """Two families at two checkpoints: a head and the unembedding."""
  workdir = copy_of(trained, tmp_path)
  plan = estimate_rllc.plan(config(burn_in=5), workdir)
  assert not (workdir / 'rllc').exists()
  assert plan.counts.cells == 2 * 2
  assert plan.counts.chain_steps == 2 * 2 * 2 * (5 + 30)
  assert plan.counts.entries % plan.counts.chain_steps == 0
  lines = capsys.readouterr().out.splitlines()
  words = {' '.join(line.split()[:-3]): line.split()[-3:] for line in lines}
  assert words['refinements'] == ['0:0', 'unembed', 'all']
  assert words['steps of chains'] == ['140', '140', '280']
  assert words['cells that lack draws'] == ['2', '2', '4']
  memory = [float(word) for word in words['peak MB of a device']]
  assert 0 < max(memory[:2]) == memory[2] < 100


@pytest.fixture(scope='module')
def late(trained, tmp_path_factory):
  """A late data set at the last of two checkpoints, with its own target."""
  workdir = copy_of(trained, tmp_path_factory.mktemp('late'))
  settings = config(
    refinements=('0:0', '0:1'),
    checkpoints=(30, 31),
    late_datasets=('held_out',),
    num_late_checkpoints=1,
    last_target_error='0.1',
    max_draws=300,
  )
  return workdir, settings, estimate_rllc.run(settings, workdir)


def test_late_data_sets_are_measured_at_the_last_checkpoints(late):
  workdir, _, estimates = late
  assert estimates.dataset.values.tolist() == ['train', 'held_out']
  counts = estimates.num_kept.transpose('checkpoint', 'dataset', ...)
  np.testing.assert_array_equal(counts[0], [[30, 30], [0, 0]])
  assert (counts[1] >= 96).all()
  table = pd.read_csv(workdir / 'estimates.csv')
  assert len(table) == 8


def test_cells_that_are_left_out_are_not_missed(late):
  _, _, estimates = late
  assert int(estimates.left_out.sum()) == 2
  for line in health.summary(estimates).values():
    assert 'not sampled' not in line
  assert tables.missing_cells(estimates) == []
  assert tables.missing_cells(estimates.drop_vars('left_out')) == [
    'step 30, held_out: everything'
  ]


def test_a_run_with_late_data_sets_is_complete(late, capsys):
  workdir, settings, estimates = late
  assert all(row.holds for row in verify.run(settings, workdir))
  estimate_rllc.plan(settings, workdir)
  assert capsys.readouterr().out.count('already complete') == 2
  again = estimate_rllc.run(settings, workdir)
  np.testing.assert_array_equal(again.llc, estimates.llc)


def test_the_plan_of_a_complete_run_says_so():
  nothing = plans.Plan((), 2, 1.0)
  assert dry_run.text(nothing) == 'already complete: nothing is left to do'


def test_help_describes_the_exit_status():
  for binary in (estimate_rllc, demo, commands):
    assert 'Exit status: 0; 1 if there is an error' in binary.__doc__
    assert '3 if' in binary.__doc__.replace('\n', ' ')
