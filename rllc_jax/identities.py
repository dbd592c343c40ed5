"""Identities of saved results: the values that their numbers depend on.

An identity is nested mappings of JSON values. A run goes on with results of its
own identity and refuses others by the first difference.
"""

from collections.abc import Mapping
import json
from typing import Any, NamedTuple


class Difference(NamedTuple):
  """The first entry that two identities do not share.

  Attributes:
    name: of the entry, with dots: 'windows.text'.
    old: its value in the saved results; None if they have no such entry.
    new: its value in the run.
  """

  name: str
  old: Any
  new: Any


def identity(**entries: Any) -> dict[str, Any]:
  """Makes an identity of entries.

  Examples:
    >>> identity(steps=(1, 2))
    {'steps': [1, 2]}
  """
  # Through JSON, so that it equals one that was read: tuples become lists.
  return json.loads(json.dumps(entries))


def difference(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> Difference | None:
  """Finds the first difference, in the order of `new`.

  Examples:
    >>> old = identity(seed=1, model={'d': 8, 'e': 4})
    >>> difference(old, identity(seed=1, model={'d': 8, 'e': 2}))
    Difference(name='model.e', old=4, new=2)
    >>> print(difference(old, old))
    None
  """
  for name in {**new, **old}:
    was, now = old.get(name), new.get(name)
    if isinstance(was, Mapping) and isinstance(now, Mapping):
      within = difference(was, now)
      if within is not None:
        return within._replace(name=f'{name}.{within.name}')
    elif was != now:
      return Difference(name, was, now)
  return None
