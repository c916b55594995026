"""A folder of slices: reading and checking them, and the pictures that are written."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fp4jax.core.typing import Float, UInt8
from fp4jax.data.folders import is_clutter
from fp4jax.data.image_files import (
    MASK,
    OVERLAY,
    PROBABILITY,
    SUFFIXES,
    read_image,
    read_mask,
)
from fp4jax.data.other_files import others
from fp4jax.extras import Extra
from fp4jax.files import replacing

# Okabe and Ito's orange, which colour-blind readers can tell from grey.
_COLOUR = np.array((230, 159, 0), np.float32)
_SHOWN = 10


def find(source: Path) -> list[Path]:
    """The slices in a folder and in the folders within it, by path; or the file itself.

    Masks, overlays, probabilities, and what is hidden or left by file servers are no slices.

    Raises:
        ValueError: nothing there, no slices in it, or two of one name in one folder.
    """
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{source} is no slice; give a {', '.join(SUFFIXES)} file.{others([source])}"
            )
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source} is no folder; name one with {', '.join(SUFFIXES)} files in it.")
    found = sorted(path for path in files_in(source) if _is_slice(path))
    if not found:
        raise ValueError(
            f"{source} has no slices: no {', '.join(SUFFIXES)} files but masks."
            f"{others(files_in(source))}"
        )
    stems: dict[str, Path] = {}
    for path in found:
        key = path.relative_to(source).with_suffix("").as_posix().lower()
        if other := stems.get(key):
            first, second = (one.relative_to(source) for one in (other, path))
            raise ValueError(
                f"{first} and {second} would have one result, where systems do not tell capital "
                "letters from small ones; rename one of them."
            )
        stems[key] = path
    return found


def files_in(folder: Path) -> Iterator[Path]:
    """All files below a folder but those that are hidden or that systems leave there."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not is_clutter(name)]
        yield from (Path(parent, name) for name in names if not is_clutter(name))


def mask_beside(path: Path) -> Path | None:
    """The mask that lies beside a slice, ``NAME_mask.tif`` (or .tiff, .png); None without one."""
    for suffix in dict.fromkeys((path.suffix, *SUFFIXES)):
        mask = path.with_name(f"{path.stem}{MASK}{suffix}")
        if mask.is_file():
            return mask
    return None


def _is_slice(path: Path) -> bool:
    known = path.suffix.lower() in SUFFIXES
    return known and not path.stem.lower().endswith((MASK, OVERLAY, PROBABILITY))


def check(paths: list[Path], channels: int) -> None:
    """ValueError that names the slices that cannot be segmented, before anything is written."""
    problems = []
    for path in paths:
        try:
            image = read_image(path, channels)
            if (mask := mask_beside(path)) is not None:
                read_mask(mask, image.shape[:2])
        except ValueError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{len(problems)} of {len(paths)} files cannot be segmented: "
            f"{'; '.join(problems[:_SHOWN])}{more}."
        )


def write_mask(path: Path, mask: UInt8[np.ndarray, "h w"]) -> None:
    """0 and 255, in the format that the path ends with."""
    with replacing(path) as temporary:
        if path.suffix.lower() == ".png":
            _write_png(temporary, mask * np.uint8(255))
        else:
            with Extra("study"):
                import tifffile

            tifffile.imwrite(temporary, mask * np.uint8(255), photometric="minisblack")


def write_probability(path: Path, probability: Float[np.ndarray, "h w"]) -> None:
    """float32, as TIFF."""
    with Extra("study"):
        import tifffile

    with replacing(path) as temporary:
        tifffile.imwrite(temporary, probability, photometric="minisblack")


def write_overlay(
    path: Path, image: UInt8[np.ndarray, "h w c"], mask: UInt8[np.ndarray, "h w"]
) -> None:
    """The slice in grey with the lesion in orange, its border opaque, as PNG."""
    grey = np.repeat(image.mean(-1, keepdims=True, dtype=np.float32), 3, -1)
    inside = mask > 0
    share = 0.35 * inside + 0.65 * (inside & ~_eroded(inside))
    share = share[..., None].astype(np.float32)
    mixed = (1 - share) * grey + share * _COLOUR
    with replacing(path) as temporary:
        _write_png(temporary, np.rint(mixed).astype(np.uint8))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with Extra("study"):
        from PIL import Image

    Image.fromarray(pixels).save(path, format="PNG")


def _eroded(inside: np.ndarray) -> np.ndarray:
    """The pixels whose four neighbours are inside too."""
    padded = np.pad(inside, 1)
    return inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
