"""Which refinements are attention heads: their names, read back.

A head is called 'LAYER:HEAD', counted from zero. Everything else ('all', a
whole layer, a union) is a refinement, but not one head.
"""

from collections.abc import Iterable
import re

_HEAD = re.compile(r'(\d+):(\d+)')


def heads_by_layer(names: Iterable[str]) -> dict[int, list[str]]:
  """Sorts the heads among names into layers, both ascending.

  Args:
    names: of refinements, in any order.

  Returns:
    Layer -> names of its heads, by number: 0:10 comes after 0:9.

  Examples:
    >>> heads_by_layer(['1:0', '0:10', 'all', '0:9', '0:0+0:1'])
    {0: ['0:9', '0:10'], 1: ['1:0']}
  """
  found = filter(None, (_HEAD.fullmatch(str(name)) for name in names))
  numbers = sorted((int(match[1]), int(match[2])) for match in found)
  layers = {}
  for layer, head in numbers:
    layers.setdefault(layer, []).append(f'{layer}:{head}')
  return layers


def others(names: Iterable[str]) -> list[str]:
  """Those names that are not one head, in their order.

  Examples:
    >>> others(['0:0', 'all', '0:attn', '0:0+0:1'])
    ['all', '0:attn', '0:0+0:1']
  """
  return [str(name) for name in names if not _HEAD.fullmatch(str(name))]
