"""segment(model, about, source, out): masks, overlays and a table of a folder of slices."""

import csv
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import metrics
from fp4jax.core.typing import Array, Float, UInt8
from fp4jax.data import augment
from fp4jax.data.progress import track
from fp4jax.data.resize import resize_images, resize_masks
from fp4jax.export import slices
from fp4jax.export.about import About
from fp4jax.files import replacing

TABLE = "predictions.csv"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a folder is segmented."""

    # probability from which a pixel is lesion; default: the model's
    threshold: float | None = None
    # slices that are computed together. They share the scales of activations in FP4, so that with
    # more than one a mask depends, slightly, on the other slices
    batch_size: int = 1
    # how the model was trained to see the channels: rgb as stored; ref_bgr as the reference does
    channel_order: Literal["rgb", "ref_bgr"] = "rgb"
    # replace files of an earlier call
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a probability, 0 to 1.")


@dataclasses.dataclass(frozen=True)
class Segmented:
    """What was found in one slice, a row of the table."""

    file: str
    lesion_pixels: int
    pixels: int

    @property
    def share(self) -> float:
        """Of the slice's pixels."""
        return self.lesion_pixels / self.pixels


def segment(
    model: nnx.Module, about: About, source: Path, out: Path, options: Options | None = None
) -> list[Segmented]:
    """Segments the slices of a folder.

    A slice is resized to the model's size (bilinear), its mask back to its own size (nearest).
    Writes for ``name.tif`` (or .tiff, .png) ``name_mask.tif`` with 0 and 255 and
    ``name_overlay.png``, and a table ``predictions.csv`` (file, lesion_pixels, share).

    Args:
        model: in evaluation mode, packed or not.
        about: its size, channels and threshold.
        source: the folder of slices, uint8 with the channels of the model's cohort.
        out: the folder to write to; made if it is not there.
        options: see :class:`Options`.

    Returns:
        The rows of the table.

    Raises:
        ValueError: slices that cannot be read or do not fit the model, or files that would be
            replaced; nothing is written then.
        OSError: a folder that cannot be read or written.
    """
    options = options or Options()
    paths = slices.find(source)
    if not options.overwrite:
        _refuse_existing([out / TABLE, *(p for path in paths for p in _targets(path, out))])
    slices.check(paths, about.in_channels)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    found = _masks(model, about, paths, options)
    for path, image, mask in track(found, "Segmenting", total=len(paths)):
        mask_path, overlay_path = _targets(path, out)
        slices.write_mask(mask_path, mask)
        slices.write_overlay(overlay_path, image, mask)
        rows.append(Segmented(path.name, int(mask.sum()), mask.size))
    with replacing(out / TABLE) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "lesion_pixels", "share"))
        table.writerows((row.file, row.lesion_pixels, f"{row.share:.6f}") for row in rows)
    return rows


@nnx.jit
def logits_of(
    model: Callable[[Array], Array], images: UInt8[Array, "b h w c"]
) -> Float[Array, "b h w"]:
    """Of images as stored."""
    return model(augment.normalize(images))[..., 0]


def _masks(
    model: Any, about: About, paths: Sequence[Path], options: Options
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Each slice as stored, and its mask of the same size."""
    size = about.image_size, about.image_size
    threshold = about.threshold if options.threshold is None else options.threshold
    batch_size = min(options.batch_size, len(paths))
    for start in range(0, len(paths), batch_size):
        own = paths[start : start + batch_size]
        images = [slices.read(path, about.in_channels) for path in own]
        small = np.concatenate([resize_images(image[None], size) for image in images])
        # Copies fill the last batch: they change nobody's scales, and nothing is compiled again.
        small = np.resize(small, (batch_size, *small.shape[1:]))
        if options.channel_order == "ref_bgr":
            small = small[..., ::-1]
        maps = metrics.probabilities(logits_of(model, jnp.asarray(small)))[: len(own)]
        masks = (maps >= threshold).astype(np.uint8)
        for path, image, mask in zip(own, images, masks, strict=True):
            yield path, image, resize_masks(mask[None], image.shape[:2])[0]


def _targets(path: Path, out: Path) -> tuple[Path, Path]:
    return (
        out / f"{path.stem}{slices.MASK}{path.suffix}",
        out / f"{path.stem}{slices.OVERLAY}.png",
    )


def _refuse_existing(targets: Sequence[Path]) -> None:
    existing = [path for path in targets if path.exists()]
    if existing:
        others = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ValueError(
            f"{existing[0]}{others} exist already; name another folder, or allow to overwrite them."
        )
