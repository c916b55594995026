"""Equations become drawings while the site is built, so that it needs no script and no network.

Pages have them as GitHub reads them, ``$...$`` and ``$$...$$``; pymdownx.arithmatex finds them, and
ziamath sets them in STIX Two as outlines, in the colour of the text.
"""

import re
from html import unescape
from xml.etree import ElementTree

import ziamath
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

#: What arithmatex leaves, with ``generic: true``.
FOUND = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL
)
#: Points that an em has when the outlines are made; the page scales them by its own em.
SIZE = 20


def drawn(latex: str, *, inline: bool) -> str:
    """An equation as SVG, its LaTeX as its text for who cannot see it."""
    equation = ziamath.Latex(latex, size=SIZE, color="currentColor", inline=inline)
    width, height = (value / SIZE for value in equation.getsize())
    element = equation.svgxml()
    element.attrib.pop("width", None)
    element.attrib.pop("height", None)
    style = f"width:{width:.3f}em;height:{height:.3f}em"
    if inline:
        style += f";vertical-align:{equation.getyofst() / SIZE:.3f}em"
    element.set("style", style)
    element.set("role", "img")
    element.set("aria-label", latex)
    return ElementTree.tostring(element, encoding="unicode")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def draw(match: re.Match[str]) -> str:
        inline = match[1] == "span"
        svg = drawn(unescape(match[2]).strip(), inline=inline)
        return f'<{match[1]} class="equation">{svg}</{match[1]}>'

    return FOUND.sub(draw, html)
