"""Models that a user's own function makes.

  --config.model.source=factory:package.module:function

calls `function(workdir)`. It returns an object with the attributes of `Made`,
such as a `types.SimpleNamespace`. The binaries that need to know how a model
computes, `analyze` and `calibrate`, refuse such a model; estimates, `suggest`,
`report` and `verify` need no more than its losses.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import importlib
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from rllc_jax import types


class Made(NamedTuple):
  """What a user's function returns.

  Attributes:
    trajectory: the checkpoints.
    parts: families of refinements, from `rllc_jax.parts` or by hand.
    loss_fn: `loss_fn(params, batch)`, such as `rllc_jax.next_token_loss` of a
      model: batches are `types.WeightedTokens`.
    description: what makes the numbers what they are, JSON; a store refuses to
      go on with another.
  """

  trajectory: types.Trajectory
  parts: Sequence[types.Refinements]
  loss_fn: types.LossFn
  description: Mapping[str, Any]


@functools.cache
def make(place: str, workdir: pathlib.Path) -> Made:
  """Calls the function at MODULE:NAME.

  Raises:
    ValueError: if there is none, or it returns something else.
  """
  module, _, name = place.partition(':')
  try:
    function = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      'config.model.source must be factory:MODULE:FUNCTION of a module that '
      f'Python finds, such as one in the current directory; got {place!r}: '
      f'{error}.'
    ) from error
  made = function(workdir)
  missing = [name for name in Made._fields if not hasattr(made, name)]
  if missing:
    raise ValueError(
      f'{place} must return an object with {", ".join(Made._fields)}; got '
      f'{type(made).__name__} without {missing[0]}.'
    )
  return Made(*(getattr(made, name) for name in Made._fields))


def chosen(made: Made, names: Sequence[str]) -> tuple[types.Refinements, ...]:
  """The families of some parts; 'heads' stands for all, as by default.

  Raises:
    ValueError: if there is no part of a name.
  """
  available = [name for family in made.parts for name in family.names]
  asked = available if list(names) == ['heads'] else list(names)
  for name in asked:
    if name not in available:
      raise ValueError(
        'config.estimation.refinements must name parts of the model, '
        f'{", ".join(available[:12])}; got {name!r}.'
      )
  families = []
  for family in made.parts:
    places = [i for i, name in enumerate(family.names) if name in asked]
    if places:
      families.append(_some(family, places))
  return tuple(families)


def _some(family: types.Refinements, places: list[int]) -> types.Refinements:
  rows = np.array(places)
  indices = jax.tree.map(lambda leaf: leaf[rows], family.indices)
  names = tuple(family.names[place] for place in places)
  return family._replace(names=names, indices=indices)
