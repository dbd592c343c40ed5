"""Lists, draws and applies single-line mutations of Python code.

A mutation is stored as the text of its line before and after and the name of
the function around it, so that it can be located after code has moved.
"""

import ast
from collections.abc import Iterator
from collections.abc import Sequence
import pathlib
import random
from typing import NamedTuple

_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
  ast.Lt: ('<', '<='),
  ast.LtE: ('<=', '<'),
  ast.Gt: ('>', '>='),
  ast.GtE: ('>=', '>'),
  ast.Eq: ('==', '!='),
  ast.NotEq: ('!=', '=='),
  ast.In: (' in ', ' not in '),
  ast.NotIn: (' not in ', ' in '),
  ast.Is: (' is ', ' is not '),
  ast.IsNot: (' is not ', ' is '),
}
_OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
  ast.Add: ('+', '-'),
  ast.Sub: ('-', '+'),
  ast.Mult: ('*', '/'),
  ast.Div: ('/', '*'),
  ast.FloorDiv: ('//', '*'),
  ast.Mod: ('%', '//'),
  ast.Pow: ('**', '*'),
  ast.BitAnd: ('&', '|'),
  ast.BitOr: ('|', '&'),
}
_CALLS = {
  'min': 'max',
  'max': 'min',
  'any': 'all',
  'all': 'any',
  'sum': 'mean',
  'mean': 'sum',
  'minimum': 'maximum',
  'maximum': 'minimum',
  'argmax': 'argmin',
  'floor': 'ceil',
  'ceil': 'floor',
  'zeros_like': 'ones_like',
  'zeros': 'ones',
  'ones': 'zeros',
}
# Nodes of messages and annotations: no test is meant to fix every character.
_TEXT_NODES = (ast.Raise, ast.JoinedStr, ast.arguments, ast.AnnAssign)
_TEXT_CALLS = ('warn', 'warning', 'info', 'print', 'ValueError', 'lru_cache')


class Mutation(NamedTuple):
  """One changed line.

  Attributes:
    package: of `rllc_jax`.
    path: of the file, below the root, when the mutation was drawn.
    function: the innermost function around the line.
    before: the line, stripped.
    after: the changed line, stripped.
  """

  package: str
  path: str
  function: str
  before: str
  after: str

  @property
  def name(self) -> str:
    """Identifier within a list of mutations."""
    return f'{self.package} {self.function}: {self.before}'


def choose(
  root: pathlib.Path, package: str, number: int, seed: int
) -> list[Mutation]:
  """Draws mutations of a package by a seed, at most one a line."""
  sites = []
  for path in sorted((root / 'rllc_jax' / package).rglob('*.py')):
    sites += list(_sites(package, path, root))
  # Seeded by package, so that draws do not depend on the other packages.
  random.Random(f'{seed} {package}').shuffle(sites)
  chosen: dict[tuple[str, str], Mutation] = {}
  for site in sites:
    # An ambiguous line could not be located after code has moved.
    if len(chosen) < number and _is_unique(root, site):
      chosen.setdefault((site.path, site.before), site)
  return list(chosen.values())


def locate(root: pathlib.Path, mutation: Mutation) -> tuple[pathlib.Path, int]:
  """The file and the line (from 0) that a mutation changes.

  Raises:
    LookupError: if there is no such line, or more than one.
  """
  places = [
    (path, number)
    for path in sorted((root / 'rllc_jax').rglob('*.py'))
    if mutation.before in (text := path.read_text())
    for function, number in _lines_of_functions(text)
    if function == mutation.function
    and text.splitlines()[number].strip() == mutation.before
  ]
  if len(places) != 1:
    raise LookupError(f'{len(places)} lines like it: {mutation}')
  return places[0]


def mutated(text: str, number: int, after: str) -> str:
  """Replaces a line in the text of a file, keeping its indentation."""
  lines = text.splitlines(keepends=True)
  indent = len(lines[number]) - len(lines[number].lstrip())
  lines[number] = f'{" " * indent}{after}\n'
  return ''.join(lines)


def _is_unique(root: pathlib.Path, mutation: Mutation) -> bool:
  try:
    locate(root, mutation)
  except LookupError:
    return False
  return True


def _lines_of_functions(text: str) -> Iterator[tuple[str, int]]:
  """Yields each line of every function with the innermost function's name."""
  names: dict[int, str] = {}
  # Breadth first, so an inner function overwrites the lines of the outer one.
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      for number in range(node.body[0].lineno - 1, node.end_lineno or 0):
        names[number] = node.name
  return ((name, number) for number, name in names.items())


def _sites(
  package: str, path: pathlib.Path, root: pathlib.Path
) -> Iterator[Mutation]:
  text = path.read_text()
  lines = text.splitlines()
  names = {number: name for name, number in _lines_of_functions(text)}
  for node in _code(ast.parse(text)):
    number = getattr(node, 'lineno', 0) - 1
    if number not in names:
      continue
    for start, old, new in _changes(node, lines):
      line = lines[number]
      after = line[:start] + new + line[start + len(old) :]
      yield Mutation(
        package,
        str(path.relative_to(root)),
        names[number],
        line.strip(),
        after.strip(),
      )


def _code(node: ast.AST) -> Iterator[ast.AST]:
  """Yields the nodes below one, without messages and annotations."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, _TEXT_NODES) or _is_text_call(child):
      continue
    yield child
    yield from _code(child)


def _is_text_call(node: ast.AST) -> bool:
  return isinstance(node, ast.Call) and _name(node.func) in _TEXT_CALLS


def _name(function: ast.expr) -> str:
  if isinstance(function, ast.Attribute):
    return function.attr
  return function.id if isinstance(function, ast.Name) else ''


def _changes(
  node: ast.AST, lines: Sequence[str]
) -> Iterator[tuple[int, str, str]]:
  """Yields possible changes (column, old, new) of a node's line."""
  if isinstance(node, ast.Compare) and len(node.ops) == 1:
    pair = _COMPARISONS[type(node.ops[0])]
    yield from _between(node.left, node.comparators[0], pair, lines)
  elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
    pair = _OPERATORS[type(node.op)]
    yield from _between(node.left, node.right, pair, lines)
  elif isinstance(node, ast.BoolOp):
    pair = (' and ', ' or ')
    pair = pair if isinstance(node.op, ast.And) else pair[::-1]
    yield from _between(node.values[0], node.values[1], pair, lines)
  elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
    yield node.col_offset, 'not ', ''
  elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    yield node.col_offset, '-', ''
  elif isinstance(node, ast.Constant):
    yield from _constants(node, lines)
  elif isinstance(node, ast.Call) and _name(node.func) in _CALLS:
    name = _name(node.func)
    # The built-in `sum` has no counterpart `mean`.
    method = isinstance(node.func, ast.Attribute) or name not in ('sum', 'mean')
    if method and node.func.lineno == node.func.end_lineno:
      yield (node.func.end_col_offset or 0) - len(name), name, _CALLS[name]


def _between(left, right, pair, lines) -> Iterator[tuple[int, str, str]]:
  """Yields the change of an operator between two expressions of one line."""
  if left.lineno != right.end_lineno:
    return
  old, new = pair
  gap = lines[left.lineno - 1][left.end_col_offset : right.col_offset]
  if gap.count(old) == 1:
    yield left.end_col_offset + gap.index(old), old, new


def _constants(
  node: ast.Constant, lines: Sequence[str]
) -> Iterator[tuple[int, str, str]]:
  text = lines[node.lineno - 1][node.col_offset : node.end_col_offset]
  if isinstance(node.value, bool):
    yield node.col_offset, text, str(not node.value)
  elif isinstance(node.value, int):
    yield node.col_offset, text, str(node.value + 1)
  elif isinstance(node.value, float):
    yield node.col_offset, text, repr(2 * node.value + 1)
