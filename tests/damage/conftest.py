"""A trained run, whose copies several test files damage."""

import gc

import jax
import pytest

from tests.damage import tiny


@pytest.fixture(scope='package', autouse=True)
def compiled_once(tmp_path_factory):
  """Caches the compiled training step, which every call compiles anew."""
  options = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture(scope='package', autouse=True)
def collected_once():
  """After an error of Orbax garbage is collected, of all imports otherwise."""
  gc.collect()
  gc.freeze()
  yield
  gc.unfreeze()


@pytest.fixture(scope='package')
def trained(tmp_path_factory):
  """A workdir with a corpus and a complete run; it must not be changed."""
  workdir = tmp_path_factory.mktemp('trained')
  tiny.write(workdir)
  return workdir
