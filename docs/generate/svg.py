"""Drawings as text: the few elements of SVG that the figures need, in colours of the page.

Colours are CSS variables. A file that is shown by itself has their values in a style of its own;
the site puts the drawing into the page, where docs/stylesheets/site.css has them.
"""

from collections.abc import Iterable
from html import escape

#: Variable -> its value on light, on dark; the same as in site.css.
COLOURS = {
    "--fig-ink": ("#1f2328", "#e3e6ea"),
    "--fig-soft": ("#5c6570", "#9aa4b0"),
    "--fig-line": ("#ccd2d9", "#4a515b"),
    "--fig-blue": ("#2f6fb0", "#79b4ec"),
    "--fig-orange": ("#c25a12", "#f0a35e"),
    "--fig-plain": ("#eef1f4", "#2b3038"),
    "--fig-nearest": ("#cfe2f6", "#24476b"),
    "--fig-tile": ("#c9ead6", "#1f5138"),
    "--fig-stochastic": ("#fbdcbd", "#6b4118"),
    "--fig-rotated": ("#e2d6f5", "#4a3472"),
    "--fig-both": ("#f7cdd8", "#6e2a3f"),
}


def number(value: float) -> str:
    """At most two decimals, so that a file is the same wherever it is drawn."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """An element; ``_`` in the names of attributes is ``-``."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="'
        f'{number(value) if isinstance(value, int | float) else escape(str(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{shown}>{content}</{name}>" if content else f"<{name}{shown}/>"


def var(name: str) -> str:
    return f"var(--fig-{name})"


def text(
    x: float, y: float, words: str, *, size: float = 12, fill: str = "ink", **attributes: object
) -> str:
    attributes = {"text_anchor": "middle", **attributes}
    return tag("text", escape(words), x=x, y=y, font_size=size, fill=var(fill), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = "line", **more: object) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=var(stroke), **more)


def rectangle(x: float, y: float, width: float, height: float, fill: str, **more: object) -> str:
    return tag("rect", x=x, y=y, width=width, height=height, fill=var(fill), **more)


def circle(x: float, y: float, radius: float, fill: str) -> str:
    return tag("circle", cx=x, cy=y, r=radius, fill=var(fill))


def drawing(width: int, height: int, title: str, elements: Iterable[str]) -> str:
    """A file: narrow enough that its letters can be read on a phone."""
    light, dark = (
        "".join(f"{name}:{both[i]};" for name, both in COLOURS.items()) for i in range(2)
    )
    style = f"svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'role="img" font-family="system-ui, sans-serif">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            *elements,
            "</svg>\n",
        ]
    )
