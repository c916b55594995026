"""What the paper's eight recipes do to the six operands of a layer's products, from the recipes."""

import fp4jax as fp4
from docs.generate.svg import drawing, rectangle, tag, text, var
from fp4jax.ops.recipe import ROLES

WIDTH, HEIGHT, LEFT, TOP, CELL, ROW = 480, 350, 140, 62, 55, 27
LEGEND = (
    ("nearest", "R: to nearest"),
    ("stochastic", "SR: stochastic"),
    ("tile", "tile: 16 x 16"),
    ("rotated", "H R: Hadamard, R"),
    ("both", "H SR: Hadamard, SR"),
    ("plain", "high precision"),
)


def cell(recipe: fp4.Recipe, role: str) -> tuple[str, str]:
    """(what is written, the colour) of one operand."""
    spec = recipe.operands[ROLES.index(role)]
    product, operand = role.split(".")
    reused = recipe.residuals == "quantized" and product != "fprop" and operand != "g"
    if spec is None and reused:
        return f"Q({operand})", "nearest"
    if spec is None:
        return "–", "plain"
    rounding = "SR" if spec.stochastic else "R"
    if spec.hadamard:
        return f"H {rounding}", "both" if spec.stochastic else "rotated"
    if spec.tiles:
        return f"{rounding} tile", "tile"
    return rounding, "stochastic" if spec.stochastic else "nearest"


def draw() -> str:
    parts = []
    for i, (product, formula) in enumerate(
        (("fprop", "y = x w"), ("dgrad", "dx = g wᵀ"), ("wgrad", "dw = xᵀ g"))
    ):
        middle = LEFT + (2 * i + 1) * CELL
        parts += [
            text(middle, 16, product, size=14, font_weight="600"),
            text(middle, 34, formula, fill="soft"),
        ]
    for column, role in enumerate(ROLES):
        parts.append(text(LEFT + (column + 0.5) * CELL, 54, role[-1], font_style="italic", size=13))
    for row in range(8):
        recipe = fp4.get_recipe(row)
        top = TOP + row * ROW
        parts.append(text(4, top + 17, f"{row}  {recipe.name}", text_anchor="start", size=13))
        for column, role in enumerate(ROLES):
            words, fill = cell(recipe, role)
            left = LEFT + column * CELL + (column // 2 - 1) * 2
            parts += [
                rectangle(left + 1, top + 1, CELL - 2, ROW - 2, fill, rx=3),
                text(left + CELL / 2, top + 17.5, words, size=13),
            ]
    for i, (fill, words) in enumerate(LEGEND):
        left, top = 4 + i % 3 * 158, 296 + i // 3 * 26
        parts += [
            tag("rect", x=left, y=top, width=16, height=16, rx=3, fill=var(fill)),
            text(left + 22, top + 12.5, words, text_anchor="start", fill="soft"),
        ]
    title = "The eight recipes: how each of six operands is quantized"
    return drawing(WIDTH, HEIGHT, title, parts)
