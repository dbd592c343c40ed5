"""A workdir at an address: what is new is brought, stores are written there."""

import os
import uuid

import pytest

from experiments.runtime import workdirs
import rllc_jax
from rllc_jax.results import files
from tests.results import numbers
from tests.results import object_store_test

bucket = object_store_test.bucket
address = object_store_test.address
pytestmark = object_store_test.pytestmark


def work(address, act):
  """Acts in a local directory of an address, as a command does."""
  local = workdirs.place(address)
  with workdirs.fetched(local) as finish:
    act(local, finish)
  assert not local.exists()


def content(address):
  root = files.place(address)
  root.fs.invalidate_cache()
  return {x: (root / x).read_text() for x in workdirs._remote_names(root)}


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def test_what_is_new_is_brought_and_what_is_gone_is_removed(address):
  def first(local, finish):
    write(local / 'corpus' / 'a', 'one')
    write(local / 'b', 'two')
    write(local / 'c.7.unfinished', 'no')
    write(local / 'compilation_cache' / 'd', 'no')

  def second(local, finish):
    assert (local / 'corpus' / 'a').read_text() == 'one'
    (local / 'corpus' / 'a').unlink()
    write(local / 'b', 'three')
    finish()  # As after a signal; nothing is brought twice.

  work(address, first)
  assert content(address) == {'corpus/a': 'one', 'b': 'two'}
  work(address, second)
  assert content(address) == {'b': 'three'}


def test_what_was_made_is_brought_even_after_an_error(address):
  def fail(local, finish):
    write(local / 'a', 'one')
    raise ValueError('of the command')

  with pytest.raises(ValueError, match='of the command'):
    work(address, fail)
  assert content(address) == {'a': 'one'}


def test_a_store_is_at_the_address_and_is_not_fetched(address):
  def act(local, finish):
    store = rllc_jax.open_store(workdirs.store_place(local / 'rllc'))
    numbers.run(store)
    assert workdirs.shown(local / 'rllc') == f'{address}/rllc'

  work(address, act)
  names = content_names(address)
  assert sum(name.startswith('rllc/traces/') for name in names) == 3
  fetched = []
  work(address, lambda local, _: fetched.extend(local.rglob('*.safetensors')))
  assert not fetched
  numbers.assert_same(
    rllc_jax.open_store(f'{address}/rllc').read(), numbers.run()
  )


def content_names(address):
  return workdirs._remote_names(files.place(address))


def test_a_directory_is_used_as_it_is(tmp_path):
  for name in (str(tmp_path), f'file://{tmp_path}'):
    local = workdirs.place(name)
    assert local == tmp_path and workdirs.store_place(local) == local
    with workdirs.fetched(local):
      pass
  assert workdirs.place('~/x') == tmp_path.home() / 'x'


def test_names_that_lead_outside_are_refused(monkeypatch):
  address = f'memory://runs/{uuid.uuid4()}'
  for name in ('../outside', '/etc/x', 'a\nb', 'x' * 300):
    monkeypatch.setattr(workdirs, '_remote_names', lambda root, n=name: [n])
    local = workdirs.place(address)
    with pytest.raises(ValueError, match='must name files of a run'):
      with workdirs.fetched(local):
        pass
    assert not [*local.iterdir()] and not os.path.exists(local / name)


def test_an_address_out_of_reach_keeps_what_was_made(monkeypatch):
  address = f'memory://runs/{uuid.uuid4()}'
  local = workdirs.place(address)

  def refuse(*arguments):
    raise RuntimeError('no such bucket')

  with pytest.raises(OSError, match=f'no such bucket.*It is in {local}'):
    with workdirs.fetched(local):
      write(local / 'a', 'one')
      monkeypatch.setattr(workdirs, '_bring', refuse)
  assert (local / 'a').read_text() == 'one'
