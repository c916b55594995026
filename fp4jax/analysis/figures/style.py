"""What all figures share: a look for each label, the order of groups, files.

Figures are made without pyplot: they need no display, leave no global state, and belong to the
caller.
"""

import base64
import dataclasses
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp4jax.analysis.stats.rows import BASELINE as BASELINE
from fp4jax.core.number_format import format_names
from fp4jax.extras import Extra
from fp4jax.files import replacing
from fp4jax.ops.attention_recipe import attention_recipes
from fp4jax.ops.recipe import format_and_recipe, get_recipe, recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Dots per inch of all PNGs; a figure of 10 inches is 1200 pixels wide.
DPI = 120
#: Width of a figure in inches.
WIDTH = 10.0
#: For lines of reference and intervals.
INK, FAINT = "#333333", "#8c8c8c"

# Okabe and Ito's colours, which colour-blind readers can tell apart, with a grey instead of the
# yellow, which does not show on white.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#56B4E9", "#8A8A8A", "#E69F00", "#CC79A7", "#009E73")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "p")
_FURTHER_MARKERS = ("<", ">", "h", "*", "d", "8")
# The paper's figures order its recipes from the gentlest to the harshest.
_ORDER = (0, 2, 7, 3, 6, 5, 4, 1)
_METHODS: dict[str, dict[str, Any]] = {
    "qat": {},
    "ptq": {"line": ":", "fill": "none", "hatch": "///"},
    "qad": {"line": "--", "fill": "left", "hatch": "..."},
}
_ARCHITECTURES = {
    "swin": "Swin",
    "cnn": "CNN",
    "vit": "ViT",
    "unet": "U-Net",
    "swin_unetr": "SwinUNETR",
}


@dataclasses.dataclass(frozen=True)
class Look:
    """How a label is drawn, in all figures."""

    colour: str
    marker: str
    line: Any = "-"
    # of markers, as matplotlib's fillstyle: QAT full, PTQ none, QAD left
    fill: Any = "full"
    # of bars
    hatch: str = ""

    def dots(self) -> dict[str, Any]:
        """Arguments of ``Axes.plot`` for markers without a line."""
        return {
            "linestyle": "none",
            "marker": self.marker,
            "color": self.colour,
            "fillstyle": self.fill,
            "markerfacecoloralt": "white",
        }

    def curve(self) -> dict[str, Any]:
        """Arguments of ``Axes.plot`` for a line."""
        return {"color": self.colour, "linestyle": self.line}

    def bar(self) -> dict[str, Any]:
        """Arguments of ``Axes.bar``, below dots of the same colour."""
        return {
            "color": self.colour,
            "alpha": 0.35,
            "edgecolor": self.colour,
            "hatch": self.hatch,
        }


def look(label: str) -> Look:
    """A colour and marker per recipe; line, fill and hatch per method. The same in every figure.

    Example:
        >>> look("baseline").colour, look("ptq full").fill
        ('#000000', 'none')
        >>> look("full").colour == look("qad full").colour
        True
    """
    method, recipe = split_label(label)
    recipe, attention = split_attention(recipe)
    place = _place(recipe)
    if attention in attention_recipes():
        # A colour of its own beside the recipe's, and no marker of the paper's.
        place = len(_COLOURS) + place + 1 + attention_recipes().index(attention)
    drawn = _METHODS[method]
    further = place - len(_COLOURS)
    if further < 0:
        return Look(_COLOURS[place], _MARKERS[place], **drawn)
    # Further recipes share colours: their lines and markers differ from the paper's recipes.
    if method == "qat":
        drawn: dict[str, Any] = drawn | {"line": (0, (6, 1, 1, 1))}
    marker = _FURTHER_MARKERS[further % len(_FURTHER_MARKERS)]
    return Look(_COLOURS[1 + further % (len(_COLOURS) - 1)], marker, **drawn)


def _place(recipe: str) -> int:
    """Of a recipe in the order of all of them, those in other formats after the named ones."""
    known = recipes()
    format, base = format_and_recipe(recipe) or ("nvfp4", recipe)
    if base not in known:
        return len(known)
    return format_names().index(format) * len(known) + known.index(base)


def split_label(label: str) -> tuple[str, str]:
    """(method, recipe) of a label.

    Example:
        >>> split_label("ptq full"), split_label("full")
        (('ptq', 'full'), ('qat', 'full'))
    """
    method, _, recipe = label.partition(" ")
    return (method, recipe) if method in _METHODS and recipe else ("qat", label)


def split_attention(recipe: str) -> tuple[str, str]:
    """(recipe of layers, that of attention or "") of what runs are called.

    Example:
        >>> split_attention("2d+rht+attention_qat"), split_attention("2d+rht")
        (('2d+rht', 'attention_qat'), ('2d+rht', ''))
    """
    of_layers, _, attention = recipe.rpartition("+")
    return (of_layers, attention) if attention in attention_recipes() else (recipe, "")


def is_advanced(label: str) -> bool:
    """True if the recipe rounds stochastically or has 16x16 weight tiles.

    Example:
        >>> [r for r in recipes()[:8] if is_advanced(r)]
        ['2d+rht', '2d+rht+sr', 'sr']
    """
    recipe, _ = split_attention(split_label(label)[1])
    if recipe not in recipes() and format_and_recipe(recipe) is None:
        return False
    found = get_recipe(recipe)
    return found.stochastic or any(s is not None and s.tiles for s in found.operands)


def shown(label: str) -> str:
    """The label with the paper's id of its recipe.

    Example:
        >>> shown("2d+rht"), shown("ptq sr"), shown("sr_unbiased")
        ('2d+rht (4)', 'ptq sr (6)', 'sr_unbiased')
    """
    known = recipes()[: len(_ORDER)]
    recipe = split_label(label)[1]
    return f"{label} ({known.index(recipe)})" if recipe in known else label


def ordered_labels(labels: Iterable[str]) -> list[str]:
    """Each label once: baseline, the paper's order 2, 7, 3, 6, 5, 4, 1, further recipes, PTQ, QAD.

    Example:
        >>> ordered_labels(["qad full", "full", "sr_unbiased", "forward_only", "baseline"])
        ['baseline', 'forward_only', 'full', 'sr_unbiased', 'qad full']
    """
    known = recipes()
    paper = [known[i] for i in _ORDER]

    def place(label: str) -> tuple:
        method, recipe = split_label(label)
        recipe, attention = split_attention(recipe)
        order = [*paper, *(name for name in known if name not in paper)]
        return (
            list(_METHODS).index(method),
            order.index(recipe) if recipe in order else len(order),
            attention,
            label,
        )

    return sorted(set(labels), key=place)


def ordered_archs(archs: Iterable[str]) -> list[str]:
    """Each architecture once: Swin, CNN, ViT, then others.

    Example:
        >>> ordered_archs(["vit", "cnn", "vit", "swin"])
        ['swin', 'cnn', 'vit']
    """
    known = list(_ARCHITECTURES)
    return sorted(set(archs), key=lambda a: (known.index(a) if a in known else len(known), str(a)))


def ordered_scales(scales: Iterable[str]) -> list[str]:
    """Each scale once, by its number of parameters.

    Example:
        >>> ordered_scales(["15m", "500k", "4m"])
        ['500k', '4m', '15m']
    """

    def size(scale: str) -> tuple[float, str]:
        number = re.match(r"([0-9.]+)([km]?)", scale)
        if not number:
            return float("inf"), scale
        return float(number[1]) * {"": 1, "k": 1e3, "m": 1e6}[number[2]], scale

    return sorted(set(scales), key=size)


def title(arch: str, scale: str = "") -> str:
    """As headings have it.

    Example:
        >>> title("swin", "4m"), title("cnn")
        ('Swin 4M', 'CNN')
    """
    return f"{_ARCHITECTURES.get(arch, arch)} {scale.upper()}".strip()


def save(figure: "Figure", path: Path) -> None:
    """Writes a PNG in one step; an existing file is replaced."""
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure))


def png(figure: "Figure") -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    with Extra("study"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png", metadata={"Software": None})
    return buffer.getvalue()


def data_url(image: bytes) -> str:
    """A PNG as the source of an image in a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
