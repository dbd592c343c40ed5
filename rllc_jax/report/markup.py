"""Pieces of HTML. All text is escaped here, and nowhere else."""

import base64
from collections.abc import Iterable
from collections.abc import Mapping
import html
from typing import Any

from rllc_jax import visible
from rllc_jax.report import tables

STYLE = """
:root { color-scheme: light; --ink: #1a202c; --soft: #5b6472; --line: #d9dee5;
  --accent: #14255f; --mark: #fff1d6; }
* { box-sizing: border-box; }
body { margin: 0; background: #ffffff; color: var(--ink);
  font: 16px/1.6 Charter, 'Bitstream Charter', Cambria, Georgia, serif; }
main { max-width: 1000px; margin: 0 auto; padding: 56px 32px 96px; }
h1, h2, h3, nav, table, dl, figcaption, .kicker { font-family: system-ui,
  -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
h1 { font-size: 32px; line-height: 1.2; margin: 4px 0 16px;
  color: var(--accent); letter-spacing: -0.01em; }
h2 { font-size: 22px; margin: 56px 0 12px; padding-top: 20px;
  border-top: 1px solid var(--line); color: var(--accent); }
h3 { font-size: 16px; margin: 28px 0 8px; }
p, ul { max-width: 760px; margin: 0 0 14px; }
.kicker { color: var(--soft); font-size: 14px; margin: 0; }
.headline { font-size: 20px; line-height: 1.5; max-width: 860px; }
nav { font-size: 14px; margin: 20px 0 0; }
a { color: var(--accent); }
nav a { margin-right: 18px; }
figure { margin: 24px 0 28px; }
figure img { width: 100%; height: auto; display: block; }
figure.narrow img { max-width: 760px; }
figcaption { font-size: 13.5px; line-height: 1.5; color: var(--soft);
  max-width: 860px; margin-top: 8px; }
.scroll { overflow-x: auto; margin: 12px 0 8px; }
table { border-collapse: collapse; font-size: 13.5px; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 14px 6px 0; vertical-align: top; }
td { white-space: nowrap; }
.words { text-align: left; white-space: normal; }
td.words { overflow-wrap: anywhere; }
thead th { border-bottom: 1.5px solid var(--ink); font-weight: 600;
  vertical-align: bottom; }
tbody tr { border-bottom: 1px solid var(--line); }
dl { display: grid; gap: 0 28px; margin: 8px 0 16px; font-size: 13.5px;
  grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); }
dl div { display: flex; justify-content: space-between; gap: 16px;
  padding: 4px 0; border-bottom: 1px solid var(--line); }
dt { color: var(--soft); flex: 0 1000 auto; overflow-wrap: break-word;
  max-width: calc(100% - 3em - 16px); }
dd { margin: 0; text-align: right; overflow-wrap: anywhere;
  flex: 0 1 auto; min-width: 3em;
  font-variant-numeric: tabular-nums; }
details { margin: 0 0 14px; }
summary { cursor: pointer; font-size: 14px; }
.marked { background: var(--mark); box-shadow: inset 0 -2px #d98a00; }
.note { font-size: 14px; color: var(--soft); }
@media print { main { padding: 0; } h2, figure { break-inside: avoid; } }
"""


def text(value: Any) -> str:
  r"""Anything as text that means itself in HTML, every character of it seen.

  Examples:
    >>> print(text('a < b & "c" ‮'))
    a &lt; b &amp; &quot;c&quot; ‮
  """
  return html.escape(visible.text(value), quote=True)


def tag(name: str, content: Any, kind: str = '') -> str:
  """An element with text in it, escaped.

  Examples:
    >>> tag('p', '1 < 2', 'note')
    '<p class="note">1 &lt; 2</p>'
  """
  attribute = f' class="{text(kind)}"' if kind else ''
  return f'<{name}{attribute}>{text(content)}</{name}>'


def link(section: str, words: Any) -> str:
  """A link to a section of the same page.

  Examples:
    >>> link('heads', 'The heads')
    '<a href="#heads">The heads</a>'
  """
  return f'<a href="#{text(section)}">{text(words)}</a>'


def bullets(lines: Iterable[Any]) -> str:
  """A list, a line an entry."""
  return f'<ul>{"".join(tag("li", line) for line in lines)}</ul>'


def folded(summary: str, content: str) -> str:
  """Markup that a reader may open."""
  return f'<details>{tag("summary", summary)}{content}</details>'


def table(content: tables.Table) -> str:
  """A table; marked cells have a color, and are underlined."""
  header = _row('th', [tables.Cell(x) for x in content.header], content)
  rows = ''.join(_row('td', row, content) for row in content.rows)
  return (
    f'<div class="scroll"><table><thead>{header}</thead>'
    f'<tbody>{rows}</tbody></table></div>'
  )


def _row(name: str, cells: Iterable[tables.Cell], content: tables.Table) -> str:
  parts = []
  for place, cell in enumerate(cells):
    kinds = ['words'] if place < content.num_words else []
    kinds += ['marked'] if cell.marked else []
    parts.append(tag(name, cell.text, ' '.join(kinds)))
  return f'<tr>{"".join(parts)}</tr>'


def facts(values: Mapping[str, Any]) -> str:
  """Names and values, several side by side; nested names are joined by dots."""
  pairs = ''.join(
    f'<div><dt>{_breakable(name)}</dt>{tag("dd", _shown(value))}</div>'
    for name, value in flatten(values).items()
  )
  return f'<dl>{pairs}</dl>'


def _breakable(name: str) -> str:
  """A name that a line may end in, after each underscore."""
  return text(name).replace('_', '_<wbr>')


def _shown(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:.6g}'
  if isinstance(value, list | tuple):
    return ', '.join(_shown(part) for part in value)
  return f'{value:,}' if type(value) is int else str(value)


def flatten(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested mappings as one.

  Examples:
    >>> flatten({'model': {'num_heads': 4}, 'seed': 0})
    {'model.num_heads': 4, 'seed': 0}
  """
  flat = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f'{prefix}{name}.'))
    else:
      flat[f'{prefix}{name}'] = value
  return flat


def picture(svg: bytes, words: str, caption: str, kind: str = '') -> str:
  """A figure inside the page itself.

  Args:
    svg: its file.
    words: what it shows, for those who do not see it.
    caption: below it.
    kind: 'narrow' or nothing.
  """
  data = base64.b64encode(svg).decode('ascii')
  attribute = f' class="{text(kind)}"' if kind else ''
  return (
    f'<figure{attribute}><img alt="{text(words)}" '
    f'src="data:image/svg+xml;base64,{data}">'
    f'{tag("figcaption", caption)}</figure>'
  )


def page(title: str, body: Iterable[str]) -> str:
  """A whole document; it asks for nothing from anywhere."""
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<link rel="icon" href="data:,"><title>{text(title)}</title>'
    f'<style>{STYLE}</style></head>\n<body><main>\n'
    + '\n'.join(body)
    + '\n</main></body></html>\n'
  )
