"""Files below an address of an object store, or of any fsspec file system."""

import contextlib
import json
import os
import pathlib
from typing import Any

import fsspec

from rllc_jax import checked_files


class RemoteFiles:
  """The files below an address, by their names relative to it."""

  def __init__(self, address: str):
    """Connects.

    Raises:
      ValueError: if nothing here can read such addresses, or it is a pattern.
    """
    if any(character in address for character in '*?['):
      raise ValueError(
        '--workdir must be an address without *, ? and [, which stand for '
        f'others in some systems; got {address}.'
      )
    try:
      self._system, root = fsspec.url_to_fs(address)
    except (ImportError, ValueError) as error:
      raise ValueError(
        '--workdir must be a directory, or an address that fsspec can read '
        f'with what is installed; got {address}: {error}.'
      ) from None
    self._root = root.rstrip('/')
    self.address = address.rstrip('/')

  def names(self) -> list[str]:
    """Names of all files, without the empty markers of directories."""
    # fsspec caches listings, and other machines write here, too.
    self._system.invalidate_cache()
    start = len(self._root) + 1
    names = [path[start:] for path in self._system.find(self._root)]
    return [name for name in names if name and not name.endswith('/')]

  def read(self, name: str) -> dict[str, Any]:
    """Loads a JSON file of `write`; {} if there is none.

    Raises:
      ValueError: if its checksum is wrong.
    """
    try:
      content = json.loads(self._system.cat_file(self._path(name)))
    except FileNotFoundError:
      return {}
    if content.pop('checksum', None) != checked_files.checksum(content):
      raise ValueError(
        f'{self.address}/{name} must be as it was written; got another. Put '
        'back a copy, or remove it: the last seconds of the last run are lost.'
      )
    return content

  def write(self, name: str, content: dict[str, Any]) -> None:
    """Replaces a JSON file atomically."""
    record = {**content, 'checksum': checked_files.checksum(content)}
    beside = self._path(f'{name}.new')
    self._make_parent(beside)
    self._system.pipe_file(beside, json.dumps(record).encode())
    # Moved to its place, so that no reader sees a part of it.
    self._system.mv(beside, self._path(name))

  def upload(self, path: pathlib.Path, name: str) -> None:
    self._make_parent(self._path(name))
    self._system.put_file(str(path), self._path(name))

  def download(self, name: str, path: pathlib.Path) -> None:
    self._system.get_file(self._path(name), str(path))

  def copy(self, name: str, to: str) -> None:
    self._make_parent(self._path(to))
    self._system.cp_file(self._path(name), self._path(to))

  def remove(self, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
      self._system.rm_file(self._path(name))

  def _path(self, name: str) -> str:
    return f'{self._root}/{name}'

  def _make_parent(self, path: str) -> None:
    # Local directories only: a bucket must exist, and must not be created.
    if self._system.protocol == ('file', 'local'):
      self._system.makedirs(os.path.dirname(path), exist_ok=True)
