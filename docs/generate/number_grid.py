"""The numbers of E2M1, their codes, and where rounding to nearest goes from one to the next."""

from docs.generate.svg import circle, drawing, line, number, text
from fp4jax.core.formats import E2M1_MAGNITUDES

WIDTH, HEIGHT = 420, 130
LEFT, RIGHT, AXIS = 22, 398, 66


def draw() -> str:
    values = E2M1_MAGNITUDES.astype(float)
    scale = (RIGHT - LEFT) / values[-1]

    def place(value: float) -> float:
        return LEFT + scale * value

    parts = [line(LEFT, AXIS, RIGHT, AXIS, "ink")]
    for middle in (values[1:] + values[:-1]) / 2:
        parts.append(line(place(middle), AXIS - 8, place(middle), AXIS + 8, "orange"))
    for code, value in enumerate(values):
        parts += [
            circle(place(value), AXIS, 4.5, "blue"),
            text(place(value), AXIS - 16, number(value), size=13, font_weight="600"),
            text(place(value), AXIS + 25, f"{code:03b}", fill="soft", font_family="monospace"),
        ]
    parts += [
        text(LEFT - 14, 18, "value", fill="soft", text_anchor="start"),
        text(LEFT - 14, 118, "code without its sign bit", fill="soft", text_anchor="start"),
        text(RIGHT + 14, 118, "rounding goes over", fill="orange", text_anchor="end"),
    ]
    return drawing(WIDTH, HEIGHT, "The eight magnitudes of E2M1 on a line from 0 to 6", parts)
