"""The file `run.json` of a store: the identity of its run, and its extent."""

from collections.abc import Mapping
import functools
import json
from typing import Any

from rllc_jax import checked_files
from rllc_jax import identities
from rllc_jax import visible
from rllc_jax.results import blocks
from rllc_jax.results import files
from rllc_jax.results import store
from rllc_jax.results import traces

NAME = 'run.json'
_FORMAT = 3
_REMEDY = (
  'Remove it and run the estimation again: it makes another, and finds what '
  'the store holds.'
)


class Run:
  """The identity and the extent of a store.

  Attributes:
    identity: settings, and hashes of weights, data and what moves.
    extent: coordinates.
    owner: checksum of the settings with which the store was made, which all of
      its files are known by: a later version may record more of them.
  """

  def __init__(
    self, identity: dict[str, Any], extent: store.Extent, owner: str = ''
  ):
    self.identity, self.extent = identity, extent
    self.owner = owner or checked_files.checksum(
      identities.settings_of(identity)
    )
    self._coordinates = tuple(map(frozenset, extent[:3]))
    # Of a store's files, again and again.
    self._of_dataset = functools.lru_cache(2**12)(self._dataset_checksum)
    self._of_columns = functools.lru_cache(2**12)(self._columns_checksum)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Run) and self._content() == other._content()

  def identity_of(self, block: blocks.Block) -> str:
    """Stands for what the numbers of a block are; '' if it is not of the run.

    A file of another run is not taken for one of this store, nor is one of the
    same name that was made with other weights.
    """
    parts = [*map(self._of_row, block.rows), self._of_columns(block.columns)]
    return f'{self.owner} {" ".join(parts)}' if all(parts) else ''

  def _of_row(self, row: store.Row) -> str:
    step, dataset = row
    if step not in self._coordinates[0] or dataset not in self._coordinates[1]:
      return ''
    weights = self.identity.get('params', {}).get(str(step))
    return f'{weights} {self._of_dataset(dataset)}'

  def _dataset_checksum(self, name: str) -> str:
    return checked_files.checksum(self.identity.get('windows', {}).get(name))

  def _columns_checksum(self, columns: tuple[store.Column, ...]) -> str:
    chains = range(self.extent.num_chains)
    if not all(x in self._coordinates[2] and c in chains for x, c in columns):
      return ''
    kinds = [self.identity.get(x, {}) for x in ('num_coordinates', 'moving')]
    names = dict.fromkeys(name for name, _ in columns)
    return checked_files.checksum(
      [[kind.get(name) for kind in kinds] for name in names]
    )

  def with_more(
    self, identity: Mapping[str, Any], extent: store.Extent, place: Any
  ) -> 'Run':
    """The run with the coordinates of another one.

    Raises:
      StoreError: if the other one has another identity.
    """
    merged, difference = identities.merge(self.identity, identity)
    if difference:
      raise traces.StoreError(
        f'The store {place} must be of the same run, because its numbers '
        f'would not belong together; it was made with {difference}. Use '
        'another directory, or the same settings.'
      )
    return Run(merged, traces.grown(self.extent, extent), self.owner)

  def save(self, directory: Any) -> None:
    """Writes the file."""
    content = self._content()
    checked = {**content, 'checksum': checked_files.checksum(content)}
    data = (json.dumps(checked, indent=1) + '\n').encode()
    files.put(directory / NAME, data)

  def _content(self) -> dict[str, Any]:
    return {
      'format': _FORMAT,
      'owner': self.owner,
      'identity': self.identity,
      'extent': self.extent._asdict(),
    }


def load(directory: Any) -> Run | None:
  """Reads the file; None if there is none.

  Raises:
    StoreError: if it is not as it was written, or of another version.
  """
  path = directory / NAME
  if not path.exists():
    return None
  try:
    run = checked_files.read_json(path, ('format',), _REMEDY)
  except ValueError as error:
    raise traces.StoreError(str(error)) from error
  if run['format'] != _FORMAT:
    raise traces.StoreError(
      f'{path} must be of format {_FORMAT}, because this version reads no '
      f'other; got {visible.short(run["format"], 40)}. Stores of format 2 are '
      'exported by rllc_jax of commit a2601fa: open_store(DIR).read().to_zarr; '
      'or use another directory.'
    )
  try:
    identity, owner = run['identity'], run['owner']
    if not (isinstance(identity, dict) and isinstance(owner, str)):
      raise TypeError(f'{type(owner).__name__} as owner')
    return Run(identity, _extent(run['extent']), owner)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise traces.StoreError(
      f'{path} must be that of a store; got {type(error).__name__}: '
      f'{visible.short(error)}. {_REMEDY}'
    ) from None


def _extent(entries: dict[str, Any]) -> store.Extent:
  extent = store.Extent(
    tuple(entries['checkpoints']),
    tuple(entries['datasets']),
    tuple(entries['refinements']),
    int(entries['num_chains']),
    int(entries['num_draws']),
  )
  store.check_extent(extent)
  return extent
