"""Slices and masks in PNG and TIFF files: pixels as a viewer shows them, masks as 0 and 1.

How a file stores its pixels makes no difference: palettes, single bits, white as 0, planes of
colours one after the other, an opaque alpha channel. What has no single meaning is refused.

Sources: TIFF Revision 6.0 (Adobe, 1992), PhotometricInterpretation and PlanarConfiguration; W3C,
Portable Network Graphics Specification, 11.2.
"""

from pathlib import Path

import numpy as np

from fp4jax.core.typing import UInt8
from fp4jax.extras import Extra

SUFFIXES = (".tif", ".tiff", ".png")
#: Ends of names of what belongs to a slice: its mask, and pictures that are drawn of it.
MASK, OVERLAY, PROBABILITY = "_mask", "_overlay", "_probability"

_MOST_LABEL = 16  # a mask with further values up to this one is a map of labels
_MOST_LEVELS = 8  # or, with none of these, one of labels that were spread over the grey levels
_RESCALED = "rescaled to 0 to 255 as the images were that the model was trained on"


def read_image(path: Path, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of a slice with a number of channels: :func:`with_channels`.

    Raises:
        ValueError: damaged, or not uint8 of that many channels; names the file and what to do.
    """
    return with_channels(read_pixels(path), path, channels)


def with_channels(pixels: np.ndarray, path: Path, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of a file with a number of channels.

    An opaque alpha channel is left out, and of three equal channels one is taken where one is
    wanted.

    Raises:
        ValueError: not uint8 of that many channels; names the file and what to do.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim == 3 and pixels.shape[-1] == channels + 1 and channels in (1, 3):
        pixels = _without_alpha(pixels, path)
    if pixels.ndim == 3 and channels == 1 and pixels.shape[-1] in (3, 4):
        colours = pixels if pixels.shape[-1] == 3 else _without_alpha(pixels, path)
        if (colours == colours[..., :1]).all():
            pixels = colours[..., :1]
    wanted = f"but the model takes uint8 (height, width, {channels})"
    if pixels.ndim != 3 or pixels.shape[-1] != channels:
        shape = pixels.shape[:2] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels.shape
        stack = "; give each page as a file of its own" if pixels.ndim > 2 and channels > 1 else ""
        stack = stack if pixels.shape[-1] > 4 else ""
        raise ValueError(f"{path.name}: is {pixels.dtype} {shape}, {wanted}{stack}")
    if pixels.dtype == np.bool_:
        pixels = pixels * np.uint8(255)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path.name}: is {pixels.dtype} {pixels.shape}, {wanted}, {_RESCALED}")
    if 0 in pixels.shape:
        raise ValueError(f"{path.name}: is empty, {pixels.shape}")
    return np.ascontiguousarray(pixels)


def read_mask(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w"]:
    """A mask as 0 and 1: what is not 0, or not black.

    Raises:
        ValueError: damaged, of another size than its slice, or with values that are no mask's.
    """
    pixels = read_pixels(path)
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        pixels = _without_alpha(pixels, path)
    if pixels.ndim == 3 and pixels.shape[-1] in (1, 3):
        flat = (pixels == pixels[..., :1]).all()
        pixels = pixels[..., 0] if flat else np.asarray(pixels.any(-1))
    if pixels.shape != shape:
        raise ValueError(
            f"{path.name}: the mask has shape {pixels.shape}, its slice {shape}; it is no mask of "
            "it"
        )
    mask = binary(pixels, path.name)
    numbers = _numbers(path)
    if numbers is not None and not np.array_equal(numbers != 0, mask != 0):
        raise ValueError(
            f"{path.name}: as it is shown, it is another mask than by its numbers (a palette, or "
            "white as 0); save it in grey, the lesion 255, such as by tifffile.imwrite(path, "
            "mask.astype('uint8') * 255)"
        )
    return mask


def binary(values: np.ndarray, name: str) -> UInt8[np.ndarray, "*shape"]:
    """1 where values are not 0, of masks with 0 and another value, and of maps of a few labels.

    Raises:
        ValueError: other values, as JPEG and smooth resizing make them.

    Example:
        >>> binary(np.array([0, 255, 255, 0]), "a.png").tolist()
        [0, 1, 1, 0]
    """
    found = np.unique(values)
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: the mask has values that are NaN or infinite")
    found = found[found != 0]
    low, high = (found[0], found[-1]) if len(found) else (0, 0)
    labels = low >= 0 and high <= _MOST_LABEL
    spread = len(found) <= _MOST_LEVELS and low > _MOST_LABEL
    if len(found) > 1 and not (labels or spread):
        shown = ", ".join(f"{value:g}" for value in found[:5].astype(float))
        raise ValueError(
            f"{name}: the mask has {len(found)} values beside 0 ({shown}, ...), as JPEG and smooth "
            "resizing make them; make those of 128 and more 255, all others 0, and save it as PNG "
            "or TIFF"
        )
    return (values != 0).astype(np.uint8)


def read_pixels(path: Path) -> np.ndarray:
    """The pixels of a file, (height, width) or (height, width, channels), in its own type.

    Raises:
        ValueError: damaged; 16 bits of each colour in a PNG file.
    """
    try:
        return _png(path) if path.suffix.lower() == ".png" else _tiff(path)
    except (ImportError, ValueError) as error:
        if isinstance(error, _RefusedError | ImportError):
            raise
        raise _damaged(path, error) from error
    except Exception as error:  # a damaged file can fail anywhere in a reader
        raise _damaged(path, error) from error


class _RefusedError(ValueError):
    """Of a file that is not damaged."""


def _damaged(path: Path, error: Exception) -> ValueError:
    about = str(error).splitlines()[0] if str(error) else ""
    return ValueError(
        f"{path.name}: cannot be read, truncated or not a {_kind(path)} file "
        f"({type(error).__name__}: {about})"
    )


def _kind(path: Path) -> str:
    return "PNG" if path.suffix.lower() == ".png" else "TIFF"


def _png(path: Path) -> np.ndarray:
    with Extra("study"):
        from PIL import Image

    with Image.open(path) as image:
        with path.open("rb") as file:
            depth = file.read(25)[-1]  # IHDR's first of all chunks
        # Pillow reads the upper 8 bits of colours, which are nearly black in images of 12.
        if depth == 16 and image.mode in ("RGB", "RGBA", "LA"):
            raise _RefusedError(
                f"{path.name}: has 16 bits of each channel; 8 are needed, {_RESCALED}"
            )
        # Palettes and single bits are ways to store colours and greys.
        palette = "RGBA" if "transparency" in image.info else "RGB"
        plain = {"P": palette, "PA": "RGBA", "1": "L"}.get(image.mode)
        return np.asarray(image.convert(plain) if plain else image)


def _tiff(path: Path) -> np.ndarray:
    with Extra("study"):
        import tifffile

    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages[0].aspage()
        pixels = np.asarray(series.asarray())
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind in "bu":
            pixels = ~pixels
        colours = page.colormap
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and colours is not None:
            return np.moveaxis(np.asarray(colours)[:, pixels] >> 8, 0, -1).astype(np.uint8)
        # S: samples of a pixel, C: channels; a plane for each
        if series.axes in ("SYX", "CYX"):
            pixels = np.moveaxis(pixels, 0, -1)
    return pixels


def _numbers(path: Path) -> np.ndarray | None:
    """What a file holds, where it says that something else is shown; None elsewhere."""
    if path.suffix.lower() == ".png":
        with Extra("study"):
            from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image) if image.mode == "P" else None
    with Extra("study"):
        import tifffile

    shown = tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE
    with tifffile.TiffFile(path) as file:
        page = file.pages[0].aspage()
        return np.asarray(page.asarray()) if page.photometric in shown else None


def _without_alpha(pixels: np.ndarray, path: Path) -> np.ndarray:
    """The other channels.

    Raises:
        ValueError: the last one is not opaque.
    """
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    if not (pixels[..., -1] == top).all():
        raise ValueError(
            f"{path.name}: is {pixels.dtype} {pixels.shape}, and its last channel, if it is alpha, "
            "is transparent in places; save it without"
        )
    return pixels[..., :-1]
