"""Configs of the paper's figures and of its full size, with its sampler.

The paper samples by SGLD at a step size of 1e-3, which adds some 6 % to the
estimate of a trained head; everything else here takes Leimkuhler and Matthews'.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from experiments.runtime import sections


def make_config(
  seed: int = 0, **changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """As `sections.make_config`, with the sampler of Wang et al. (2410.02984)."""
  own = dict(changes.pop('sampling', {}))
  sampling = {'sampler': 'sgld', 'step_size': 1e-3, **own}
  return sections.make_config(seed, sampling=sampling, **changes)
