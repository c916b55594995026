"""A block of 16 values as NVFP4 keeps it: the values, the grid that its scales make, the codes."""

import jax.numpy as jnp
import numpy as np

import fp4jax as fp4
from docs.generate.svg import circle, drawing, line, number, rectangle, text
from fp4jax.core.formats import E2M1_MAGNITUDES

WIDTH, HEIGHT = 420, 330
LEFT, RIGHT, TOP, BOTTOM = 38, 412, 30, 220
STEP = (RIGHT - LEFT) / 16


def values() -> np.ndarray:
    """Two rows of 16: the block that is drawn, and one of 40 times its size beside it."""
    x = np.random.default_rng(3).standard_normal((2, 16)).astype(np.float32)
    return x * np.float32([[1], [40]])


def draw() -> str:
    x = values()
    q = fp4.quantize(jnp.asarray(x), fp4.TensorSpec())
    codes = np.asarray(q.unpacked_codes())[0]
    scale_byte = int(np.asarray(q.block_scales[0, 0]).view(np.uint8))
    block_scale, tensor_scale = float(q.block_scales[0, 0]), float(q.tensor_scale)
    found = np.asarray(q.dequantize())[0]
    magnitudes = E2M1_MAGNITUDES.astype(float)
    grid = np.concatenate([-magnitudes[:0:-1], magnitudes]) * block_scale * tensor_scale

    def height(value: float) -> float:
        return (TOP + BOTTOM) / 2 - value / grid[-1] * (BOTTOM - TOP) / 2

    parts = [text(LEFT - 34, 14, "x, and what becomes of it", text_anchor="start", fill="soft")]
    for value, name in zip(grid, [*range(-7, 0), *range(8)], strict=True):
        parts.append(line(LEFT, height(value), RIGHT, height(value)))
        if name in (-7, -6, -5, 0, 5, 6, 7):
            shown = number(round(value, 2))
            parts.append(
                text(LEFT - 4, height(value) + 3.5, shown, size=10, fill="soft", text_anchor="end")
            )
    for i in range(16):
        left, middle = LEFT + i * STEP, LEFT + (i + 0.5) * STEP
        ends = sorted((height(0), height(float(x[0, i]))))
        code = magnitudes[codes[i] & 7] * (-1 if codes[i] & 8 else 1)
        parts += [
            rectangle(middle - 5, ends[0], 10, max(ends[1] - ends[0], 0.5), "blue", opacity=0.55),
            circle(middle, height(float(found[i])), 4, "orange"),
            rectangle(left + 1, 246, STEP - 2, 20, "nearest", rx=2),
            text(middle, 260, number(code), size=10),
        ]
    parts += [
        text(
            LEFT,
            240,
            "16 codes of 4 bits, as E2M1 values",
            size=11,
            fill="soft",
            text_anchor="start",
        ),
        rectangle(LEFT + 1, 282, 168, 24, "tile", rx=2),
        text(LEFT + 85, 298, f"block scale {number(block_scale)} (0x{scale_byte:02X})", size=11),
        rectangle(LEFT + 182, 282, 191, 24, "rotated", rx=2),
        text(LEFT + 277, 298, f"tensor scale {tensor_scale:.6f}", size=11),
        text(LEFT + 85, 322, "one byte a block: E4M3", size=11, fill="soft"),
        text(LEFT + 277, 322, "one float32 a tensor", size=11, fill="soft"),
    ]
    return drawing(WIDTH, HEIGHT, "A block of 16 values, its 16 codes and its two scales", parts)
