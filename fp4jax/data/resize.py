"""Resizing of image stacks, to the bits of OpenCV's 8-bit bilinear and nearest modes.

Source position of output pixel x (half-pixel centres): s = (x + 1/2) * in / out - 1/2. Bilinear
weights are multiples of 2**-11; the vertical pass drops low bits of its products before it rounds,
so results are up to one grey level below the exact ones (OpenCV's vector code, which the reference
trains with). There is no low-pass filter: sizes below half of the original alias.
"""

import numpy as np

from fp4jax.core.typing import UInt8

_BITS = 11
_CHUNK = 2**24  # pixels at once: bounds the int32 intermediates


def check_image_size(image_size: int | None) -> None:
    """What loaders take as the height and width to resize to.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> check_image_size(None), check_image_size(64)
        (None, None)
    """
    if image_size is not None and image_size < 1:
        raise ValueError(
            f"image_size is {image_size}; use a number of pixels, or None to keep the stored size."
        )


def resize_images(
    images: UInt8[np.ndarray, "n h w c"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n height width c"]:
    """Bilinear resize to ``(height, width)``.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> import numpy as np
        >>> resize_images(np.array([[[[0], [100]]]], np.uint8), (1, 4))[0, 0, :, 0].tolist()
        [0, 25, 75, 100]
    """
    _check(size)
    n, h, w, c = images.shape
    (top, bottom, down), (left, right, across) = _taps(h, size[0]), _taps(w, size[1])
    down, across = down[:, None, None], across[:, None]
    result = np.empty((n, *size, c), np.uint8)
    step = max(1, _CHUNK // max(1, h * w * c, size[0] * size[1] * c))
    one = np.int32(2**_BITS)
    for start in range(0, n, step):
        chunk = images[start : start + step].astype(np.int32)
        rows = chunk[:, :, left] * (one - across) + chunk[:, :, right] * across
        rows >>= 4  # 255 * 2**7 at most, so that products stay below 2**31
        above, below = rows[:, top] * (one - down), rows[:, bottom] * down
        result[start : start + step] = ((above >> 16) + (below >> 16) + 2) >> 2
    return result


def resize_masks(
    masks: UInt8[np.ndarray, "n h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n height width"]:
    """Nearest-neighbour resize: pixel x of the result is pixel floor(x * in / out).

    Raises:
        ValueError: a size below 1.

    Example:
        >>> import numpy as np
        >>> resize_masks(np.array([[[0, 1]]], np.uint8), (1, 4))[0, 0].tolist()
        [0, 0, 1, 1]
    """
    _check(size)
    rows, columns = (
        np.arange(new) * old // new for old, new in zip(masks.shape[1:], size, strict=True)
    )
    return masks[:, rows[:, None], columns]


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source indices of each output pixel, and the weight of the second in 2**-11."""
    source = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(source).astype(np.int64)
    weight = np.rint((source - first) * 2**_BITS).astype(np.int32)
    return np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1), weight


def _check(size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise ValueError(f"size is {size}; height and width in pixels must be at least 1.")
