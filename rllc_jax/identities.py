"""Identities of saved results: the values that their numbers depend on.

An identity is nested mappings of JSON values. A run goes on with results of its
own identity and refuses others by the first difference.
"""

from collections.abc import Mapping
import json
from typing import Any, NamedTuple

import numpy as np

# Parts of an identity with one entry per coordinate, which grow with these.
_GROWING = (
  'params',
  'windows',
  'num_coordinates',
  'moving',
  'losses',
  'observed',
)
# Computed parts: equal up to the arithmetic of devices and versions.
_COMPUTED = ('losses', 'observed')
# Relative. At 1e-3 on one device, a loss times 1.0005 passed as the same.
_SAME_DEVICE, _OTHER_DEVICE = 5e-5, 1e-3
# A reader's defaults, not compared: the last run's are stored.
_LATEST = ('burn_in',)


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


def merge(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
  """Merges two identities; also returns their first difference, or ''.

  Examples:
    >>> merge({'nbeta': 30}, {'nbeta': 10})[1]
    'nbeta = 30, and this run has 10'
    >>> merge({'params': {'0': 'a'}}, {'params': {'8': 'b'}})
    ({'params': {'0': 'a', '8': 'b'}}, '')
  """
  merged, text = dict(old), ''
  # Through JSON, as the stored one went: no tuples, no int keys.
  for name, value in identity(**new).items():
    if name in _LATEST:
      merged[name] = value
    stored = merged.setdefault(name, value)
    if name in _GROWING:
      new_entries = {key: x for key, x in value.items() if key not in stored}
      merged[name] = {**stored, **new_entries}
      stored = {key: stored.get(key, value[key]) for key in value}
    if name in _COMPUTED:
      stored = {
        key: value[key] if _close(stored[key], value[key]) else stored[key]
        for key in value
      }
    first = difference({name: stored}, {name: value})
    if first is not None and not text:
      text = f'{first.name} = {first.old}, and this run has {first.new}'
  return merged, text


def settings_of(identity: Mapping[str, Any]) -> dict[str, Any]:
  """The part of an identity that is the same for all coordinates."""
  left_out = (*_GROWING, *_LATEST)
  return {name: x for name, x in identity.items() if name not in left_out}


def _close(old: Any, new: Mapping[str, Any]) -> bool:
  """True if two probes agree up to rounding.

  Relative to the largest of each number over the probed points: at a perfect
  fit the loss itself is only rounding.
  """
  if not isinstance(old, dict) or old.get('kind') != new.get('kind'):
    return False
  a, b = (np.array(x['values'], float) for x in (old, new))
  if a.shape != b.shape:
    return False
  same_device = old['device'] == new['device']
  tolerance = _SAME_DEVICE if same_device else _OTHER_DEVICE
  # The initial value avoids 0 / 0 where all numbers are 0.
  scale = np.nanmax(abs(a), axis=0, initial=1e-30)
  return np.allclose(a / scale, b / scale, 0, tolerance, equal_nan=True)
