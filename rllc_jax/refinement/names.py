"""The grammar of names of refinements, for any model with blocks and heads.

  all                        every weight
  embed  pos_embed  unembed  W_E; W_pos; W_U and b_U. Where the embedding is the
                             unembedding (tied), both are embed
  0                          every weight of block 0, its norms included
  0:attn  0:mlp              its attention: all heads and b_O; its MLP
  0:3                        its head 3: W_Q W_K W_V W_O b_Q b_K b_V, without
                             biases that the model lacks; l0h3 is the same
  0:g1                       its query heads that share key and value head 1,
                             and that one. A head of them, 0:3, has the keys and
                             values that it shares: such heads overlap
  0:1+0:4                    a union, sorted, of parts that do not overlap

Names are coordinates of the results and addresses of the noise.
`refinement.parts` finds the parts of a model.
"""

from collections.abc import Iterable
import re

# A block, or a part of it: its attention, its MLP, a head or a group of heads.
IN_BLOCK = re.compile(r'(\d+)(?::(attn|mlp|g?\d+))?')
_HEAD_OF_LAYER = re.compile(r'l(\d+)h(\d+)')
_HEAD = re.compile(r'(\d+):(\d+)')


def spelled(term: str) -> str:
  """A term of a name as it is spelled here.

  Examples:
    >>> spelled(' l0h3'), spelled('0:attn')
    ('0:3', '0:attn')
  """
  term = term.strip()
  match = _HEAD_OF_LAYER.fullmatch(term)
  return f'{match[1]}:{match[2]}' if match else term


def head(name: str) -> tuple[int, int] | None:
  """Layer and number of a head; None if the name is not that of one head.

  Examples:
    >>> head('0:10'), head('0:attn'), head('0:0+0:1')
    ((0, 10), None, None)
  """
  match = _HEAD.fullmatch(str(name))
  return (int(match[1]), int(match[2])) if match else None


def place(name: str) -> tuple[int, int]:
  """Layer and number of a head; raises for other names.

  Raises:
    ValueError: if it is not.
  """
  layer_and_head = head(name)
  if layer_and_head is None:
    raise ValueError(f"A head must be named 'LAYER:HEAD'; got {name!r}.")
  return layer_and_head


def label(name: str) -> str:
  """The name as it stands in figures.

  Examples:
    >>> label('0:10'), label('0:attn')
    ('head 0:10', '0:attn')
  """
  return f'head {name}' if head(name) else name


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
  layers: dict[int, list[str]] = {}
  # Sorted as numbers: 0:10 comes after 0:9.
  for layer, number in sorted(filter(None, map(head, names))):
    layers.setdefault(layer, []).append(f'{layer}:{number}')
  return layers


def non_heads(names: Iterable[str]) -> list[str]:
  """The names that are not those of one head, in their order.

  Examples:
    >>> non_heads(['0:0', 'all', '0:attn', '0:0+0:1'])
    ['all', '0:attn', '0:0+0:1']
  """
  return [str(name) for name in names if not head(name)]
