"""From checkpoints on disk to a recommendation, stopped and widened."""

import json

import jax
import numpy as np
import pytest
import xarray as xr

from experiments import calibrate
from experiments import train
from experiments.runtime import sections
from rllc_jax.analysis import calibration
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.refinement import weights
from rllc_jax.training import checkpoints
from tests.estimators import toy
from tests.experiments import train_test

CALIBRATION = {
  'refinements': ('0:0', '0:1'),
  'datasets': ('train', 'held_out'),
  'checkpoints': (30, 1),
  'step_sizes': (1e-3, 2e-3),
  'nbetas': (10.0,),
  'localizations': (200.0,),
  'num_chains': 2,
  'num_draws': 60,
  'num_curvature_batches': 1,
}


def config(seed=3, **changes):
  return sections.make_config(
    seed=seed, calibration=CALIBRATION | changes, estimation={'batch_size': 4}
  )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  train_test.write_corpus(workdir)
  train.run(train_test.read_config(), workdir)
  return workdir


@pytest.fixture(scope='module')
def swept(trained):
  return trained, calibrate.run(config(), trained)


def read(workdir):
  with xr.open_zarr(workdir / 'calibration.zarr', consolidated=False) as sweep:
    return sweep.load()


def copy_of(trained, path):
  """A run with the same corpus and checkpoints, and no calibration."""
  for name in ('corpus', 'train'):
    (path / name).symlink_to(trained / name)
  return path


def test_all_cells_are_swept_and_stored(swept):
  workdir, recommended = swept
  sweep = read(workdir)
  assert dict(sweep.llc.sizes) == {
    'step_size': 2,
    'nbeta': 1,
    'localization': 1,
    'checkpoint': 2,
    'dataset': 2,
    'refinement': 2,
  }
  assert sweep.checkpoint.values.tolist() == [1, 30]
  assert np.isfinite(sweep.llc).all() and np.unique(sweep.llc).size == 16
  assert set(sweep.curvature.dims) == set(sweep.llc.dims) - {'step_size'}
  assert recommended.each.sizes['checkpoint'] == 2
  names = {path.name for path in (workdir / 'figures').iterdir()}
  assert names == {
    f'calibration_{step}_{name}.png'
    for step in (1, 30)
    for name in ('train', 'held_out')
  }


def test_a_cell_equals_estimate_rllc(swept):
  """The plain loss and the saved checkpoint give the same estimate."""
  workdir, _ = swept
  params = checkpoints.load(workdir / 'train' / 'checkpoints', 30)
  corpus = packing.load_corpus(workdir / 'corpus')
  model = calibrate.transformer.Architecture(
    **train_test.read_config().model,
    context_length=corpus.tokens.shape[1],
    vocab_size=train_test.VOCAB_SIZE,
  )
  loss_fn = calibrate.losses.next_token_loss(
    lambda *x: calibrate.transformer.apply(model, *x)
  )
  (family,) = weights.families(['0:0'], params, loss_fn)
  expected = toy.estimate(
    jax.random.key(3),
    family,
    params,
    minibatches.uniform(corpus.tokens, 4),
    nbeta=10.0,
    localization=200.0,
    step_size=2e-3,
    num_chains=2,
    num_draws=60,
    window=corpus.windows['held_out'],
  )
  cell = read(workdir).sel(
    step_size=2e-3, checkpoint=30, dataset='held_out', refinement='0:0'
  )
  # Losses of a few nats whose differences count, in float32.
  np.testing.assert_allclose(cell.llc.item(), expected.llc[0], rtol=1e-3)
  ratio = expected.equilibrium_ratio[0]
  np.testing.assert_allclose(cell.equilibrium_ratio.item(), ratio, rtol=1e-4)


def test_the_text_has_a_line_a_cell(swept):
  workdir, recommended = swept
  lines = calibrate.text(read(workdir), recommended).splitlines()
  cells = [line for line in lines if ', step ' in line]
  assert len(cells) == 8 and cells[0].startswith('0:0, train, step 1 ')
  assert lines[-1] == recommended.why


@pytest.fixture
def sampled(swept, monkeypatch):
  """Settings that are sampled from here on, by a fake sampler."""
  done = []
  saved = calibrate._SavedSettings(
    next((swept[0] / 'calibration').iterdir()), {}
  )
  path = next(saved.directory.parent.glob('setting_*.json'))
  cell = json.loads(path.read_text())['estimates']

  def sample(request):
    [family] = request.spec.refinements
    point = request.spec.sampling
    done.append(point)
    estimates = xr.Dataset.from_dict(cell).isel(
      refinement=[0] * len(family.names)
    )
    estimates = estimates.assign_coords(refinement=list(family.names))
    return estimates.assign(
      llc=estimates.llc + point.nbeta + 1e3 * point.step_size
    )

  monkeypatch.setattr(calibration, '_estimate', sample)
  return done


def test_a_stopped_run_resumes_without_repeating_settings(
  trained, sampled, tmp_path, monkeypatch
):
  """Stopped in the middle of a family of refinements."""
  for name in ('whole', 'stopped'):
    (tmp_path / name).mkdir()
  undisturbed = copy_of(trained, tmp_path / 'whole')
  workdir = copy_of(trained, tmp_path / 'stopped')
  names = ('unembed', '0:1', '0:0')  # Two families.
  settings = config(
    num_curvature_batches=0, refinements=names, checkpoints=(30,)
  )
  calibrate.run(settings, undisturbed)
  assert len(sampled) == 8
  sample = calibration._estimate

  def stop(*args):
    if len(sampled) == 8 + 3:
      raise KeyboardInterrupt
    return sample(*args)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(calibration, '_estimate', stop)
    calibrate.run(settings, workdir)
  assert not (workdir / 'calibration.zarr').exists()
  calibrate.run(settings, workdir)
  assert len(sampled) == 8 + 8
  assert tuple(read(workdir).refinement.values) == names
  xr.testing.assert_identical(read(workdir), read(undisturbed))


@pytest.mark.long
def test_a_wider_grid_samples_only_new_settings(trained, sampled, tmp_path):
  """If nbeta and localization are both swept, each has separate figures."""
  workdir = copy_of(trained, tmp_path)
  few = {'datasets': ('train',), 'checkpoints': (30,)}
  few['num_curvature_batches'] = 0
  calibrate.run(config(**few), workdir)
  assert len(sampled) == 2
  few |= {'nbetas': (10.0, 30.0), 'localizations': (200.0, 400.0)}
  calibrate.run(config(**few), workdir)
  assert len(sampled) == 8
  assert len(set(sampled)) == 8
  assert {path.name for path in (workdir / 'figures').iterdir()} == {
    'calibration_30_train.png',
    'calibration_30_train_localization_200.png',
    'calibration_30_train_localization_400.png',
  }
  for change in ({'num_draws': 61}, {'num_chains': 3}):  # Other numbers.
    before = len(sampled)
    settings = sections.read(config(**few | change))
    calibrate._sweep(
      settings, calibrate._build(settings, workdir), workdir / 'calibration'
    )
    assert len(sampled) == before + 8
  calibrate.run(config(seed=4, **few), workdir)
  assert len(sampled) == before + 16


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'datasets': ('code',)}, 'calibration.datasets.*train.*code'),
    ({'refinements': ('0:9',)}, '0:0, 0:1'),
    ({'checkpoints': (7,)}, '7'),
    ({'step_sizes': (1e-3, 4e-3)}, 'each twice'),
    ({'num_draws': 10}, 'At least 24 draws'),
  ],
)
def test_bad_settings_are_refused(trained, changes, message):
  with pytest.raises(ValueError, match=message):
    calibrate.run(config(**changes), trained)
