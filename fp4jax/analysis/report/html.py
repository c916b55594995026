"""Pages that need no other file: tables that sort, figures embedded, text escaped."""

import dataclasses
import html
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fp4jax.analysis.report.look import SCRIPT, STYLE

if TYPE_CHECKING:
    import pandas as pd

#: Stands for a value that is not defined.
NOTHING = "–"
# Longer texts are broken into lines.
_LONG = 40


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: text, what to sort by (default: the text), a line below, a link."""

    text: str
    sort: float | str | None = None
    note: str = ""
    target: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page: its heading, also in the table of contents, and its HTML."""

    heading: str
    body: str

    @property
    def anchor(self) -> str:
        """Name that links use."""
        return "".join(c if c.isalnum() else "-" for c in self.heading.lower())


def number(value: Any, digits: int = 3) -> Cell:
    """A number with that many decimals; integers have none, NaN and None are a dash.

    Example:
        >>> number(0.12345).text, number(3).text, number(float("nan")).text
        ('0.123', '3', '–')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell(NOTHING, -math.inf)
    if isinstance(value, int) or (float(value).is_integer() and digits == 0):
        return Cell(str(int(value)), float(value))
    return Cell(f"{value:.{digits}f}", float(value))


def paragraph(text: str) -> str:
    """Escaped text as a paragraph.

    Example:
        >>> paragraph("p < 0.05")
        '<p>p &lt; 0.05</p>'
    """
    return f"<p>{html.escape(text)}</p>"


def link(target: str, text: str) -> str:
    """A link to another page, relative to this one.

    Example:
        >>> link("a/b.html", "a & b")
        "<a href='a/b.html'>a &amp; b</a>"
    """
    return f"<a href='{html.escape(target, quote=True)}'>{html.escape(text)}</a>"


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], name: str = "") -> str:
    """A table; a click on a heading sorts it where scripts run.

    Example:
        >>> "<td data-v='0.5'>0.500</td>" in table(["x"], [[number(0.5)]])
        True
    """
    head = "".join(f"<th scope='col'>{html.escape(text)}</th>" for text in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    caption = f"<caption>{html.escape(name)}</caption>" if name else ""
    return (
        f"<div class='wide'><table>{caption}<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def frame_table(
    frame: "pd.DataFrame", columns: Mapping[str, tuple[str, Callable[[Any], Cell]]], name: str = ""
) -> str:
    """Columns of a data frame, by name -> (heading, how its values are written)."""
    rows: list[dict[str, Any]] = frame.to_dict(orient="records")  # pyright: ignore
    return table(
        [heading for heading, _ in columns.values()],
        [[write(row[key]) for key, (_, write) in columns.items()] for row in rows],
        name,
    )


def pairs(record: Mapping[str, Any]) -> str:
    """A table of names and values; records within are flattened, lists joined.

    Example:
        >>> "<td>a.b</td><td>1, 2</td>" in pairs({"a": {"b": [1, 2]}})
        True
    """
    return table(["name", "value"], [[Cell(k), Cell(v)] for k, v in _flat(record)])


def figure(source: str, caption: str, *, pixels: bool = False) -> str:
    """An image with its caption, which also stands for it where it cannot be seen.

    A click enlarges it where scripts run.

    Args:
        source: URL of the image.
        caption: below it.
        pixels: it has few pixels, which stay squares when they are enlarged.
    """
    text = html.escape(caption, quote=True)
    kind = " class='pixels'" if pixels else ""
    image = f"<img{kind} alt='{text}' src='{source}'>"
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>\n"


def panels(figures: Iterable[str]) -> str:
    """Small figures side by side, as many as there is room for."""
    return f"<div class='panels'>{''.join(figures)}</div>\n"


def links(targets: Iterable[tuple[str, str]]) -> str:
    """Links to other pages, (target, text), side by side."""
    return f"<p class='beside'>{''.join(link(*pair) for pair in targets)}</p>\n"


def details(heading: str, body: str, *, opened: bool = False) -> str:
    """A part that a click unfolds."""
    attribute = " open" if opened else ""
    return f"<details{attribute}><summary>{html.escape(heading)}</summary>{body}</details>\n"


def preformatted(text: str) -> str:
    """Escaped text with its lines as they are."""
    return f"<pre>{html.escape(text)}</pre>"


def page(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """A whole page, with contents if it is long. It loads nothing, and forbids itself to."""
    contents = "".join(
        f"<li><a href='#{s.anchor}'>{html.escape(s.heading)}</a></li>" for s in sections
    )
    if len(sections) > 2:
        lead += f"<nav aria-label='contents'><ol>{contents}</ol></nav>\n"
    body = "".join(
        f"<section id='{s.anchor}'><h2>{html.escape(s.heading)}</h2>\n{s.body}</section>\n"
        for s in sections
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{policy} \'unsafe-inline\'">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta name='color-scheme' content='light dark'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main><h1>{html.escape(title)}</h1>\n{lead}"
        f"{body}</main>\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _cell(cell: Cell) -> str:
    # a number that scripts read as minus infinity
    value = "-1e999" if cell.sort == -math.inf else cell.sort
    key = "" if value is None else f" data-v='{html.escape(str(value), quote=True)}'"
    note = f"<small>{html.escape(cell.note)}</small>" if cell.note else ""
    kind = " class='long'" if len(cell.text) > _LONG else ""
    text = link(cell.target, cell.text) if cell.target else html.escape(cell.text)
    return f"<td{key}{kind}>{text}{note}</td>"


def _flat(record: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, list | tuple):
            plain = all(not isinstance(item, Mapping | list | tuple) for item in value)
            text = ", ".join(map(str, value)) if plain else json.dumps(value, default=str)
            yield f"{before}{key}", text
        else:
            yield f"{before}{key}", NOTHING if value is None else str(value)
