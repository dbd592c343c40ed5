"""Parts of a transformer of `models.architecture`, with their fast losses."""

from collections.abc import Sequence
import functools

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import architecture as architectures
from rllc_jax.models import factored
from rllc_jax.models import targets
from rllc_jax.models import transformer
from rllc_jax.refinement import parts
from rllc_jax.refinement import weights


def transformer_parts(
  architecture: architectures.Architecture,
  names: Sequence[str] = ('heads',),
  *,
  loss_fn: types.LossFn | None = None,
  objective: targets.Objective | None = None,
  share_logits: bool = True,
  path: Sequence[str] = (),
) -> tuple[types.Refinements, ...]:
  """Parts of a transformer by name, one compiled program a family.

  Args:
    architecture: from `huggingface.load`, `transformer_lens.load` or your own.
    names: see `refinement.names`; 'heads' and 'mlps' stand for all of them.
    loss_fn: the plain loss, for parts without a faster one; by default that of
      the next token.
    objective: the same for the fast losses, `models.targets`.
    share_logits: see `factored.part_losses`.
    path: where the model lies in the params that the losses see.

  Raises:
    ValueError: as `families`.

  Examples:
    >>> families = transformer_parts(architectures.Architecture(), ['0:1', '0'])
    >>> [family.names for family in families]
    [('0:1',), ('0',)]
  """
  shapes = architecture.shapes()
  layers = range(architecture.num_layers)
  groups = {
    'heads': parts.head_names(shapes),
    'mlps': [f'{i}:mlp' for i in layers if architecture.d_mlp],
  }
  expanded = [part for name in names for part in groups.get(name, [name])]
  apply = functools.partial(transformer.apply, architecture)
  fast = factored.part_losses(
    architecture, objective=objective, share_logits=share_logits
  )
  plain = loss_fn or losses.next_token_loss(apply)
  return weights.families(expanded, shapes, plain, fast, path=path)
