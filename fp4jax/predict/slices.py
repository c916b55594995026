"""segment_slices(network, source, out): masks, overlays and a table of a folder of slices."""

import collections
import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fp4jax import metrics
from fp4jax.data.progress import track
from fp4jax.data.resize import resize_images, resize_masks
from fp4jax.files import replacing
from fp4jax.predict import slice_files
from fp4jax.predict.journal import Job, Journal
from fp4jax.predict.network import Network
from fp4jax.train import Slices
from fp4jax.train.volumes.digest import fingerprint

TABLE = "predictions.csv"


@dataclasses.dataclass(frozen=True)
class SliceOptions:
    """How a folder of slices is segmented; no slice depends on the others."""

    # probability from which a pixel is lesion; default: the model's
    threshold: float | None = None
    # how the model takes the channels of the files: rgb as stored; ref_bgr reversed, as the
    # reference does; default: as it was trained
    channel_order: Literal["rgb", "ref_bgr"] | None = None
    # replace files of another command
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a probability, 0 to 1.")


@dataclasses.dataclass(frozen=True)
class SegmentedSlice:
    """What was found in one slice, a row of the table."""

    file: str
    lesion_pixels: int
    pixels: int

    @property
    def share(self) -> float:
        """Of the slice's pixels."""
        return self.lesion_pixels / self.pixels


def segment_slices(
    network: Network, source: Path, out: Path, options: SliceOptions | None = None
) -> list[SegmentedSlice]:
    """Segments the slices of a folder; repeated after an interruption it goes on.

    A slice is resized to the model's size (bilinear), its mask back to its own size (nearest).
    Writes for ``name.tif`` (or .tiff, .png) ``name_mask.tif`` with 0 and 255 and
    ``name_overlay.png``, and a table ``predictions.csv`` (file, lesion_pixels, share).

    Args:
        network: of slices.
        source: the folder of slices, uint8 with the channels of the model's cohort.
        out: the folder to write to; made if it is not there.
        options: see :class:`SliceOptions`.

    Returns:
        The rows of the table.

    Raises:
        ValueError: a network of volumes, slices that cannot be read or do not fit the model, or
            files of another command that would be replaced; nothing is written then.
        OSError: a folder that cannot be read or written.
    """
    if not isinstance(network.task, Slices):
        raise ValueError(
            f"the model {network.about.run} is of {network.task.kind}, not of slices; segment "
            "NIfTI files with experiments.segment."
        )
    options, out = options or SliceOptions(), Path(out).expanduser()
    options = _with_defaults(options, network)
    paths = slice_files.find(Path(source).expanduser())
    jobs = [Job(path.name, fingerprint(path), _targets(path, out)) for path in paths]
    command = {
        **network.identity,
        "threshold": options.threshold,
        "channel_order": options.channel_order,
    }
    journal = Journal(out, command, overwrite=options.overwrite)
    left = {job.name: job for job in journal.remaining(jobs, [out / TABLE])}
    missing = [path for path in paths if path.name in left]
    slice_files.check(missing, network.about.in_channels)
    journal.begin()
    found = _masks(network, missing, options)
    for path, image, mask in track(found, "Segmenting", total=len(missing)):
        job = left[path.name]
        mask_path, overlay_path = job.outputs
        slice_files.write_mask(mask_path, mask)
        slice_files.write_overlay(overlay_path, image, mask)
        journal.add(job, [int(mask.sum()), mask.size])
    rows = [SegmentedSlice(path.name, *journal.done[path.name]) for path in paths]
    _write_table(out / TABLE, rows)
    return rows


def _with_defaults(options: SliceOptions, network: Network) -> SliceOptions:
    """What the network says where nothing else is asked for."""
    task, threshold = network.task, options.threshold
    return dataclasses.replace(
        options,
        threshold=network.about.threshold if threshold is None else threshold,
        channel_order=options.channel_order or getattr(task, "channel_order", None) or "rgb",
    )


def _masks(
    network: Network, paths: Sequence[Path], options: SliceOptions
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Each slice as stored, and its mask of the same size."""
    about = network.about
    size = about.image_size
    height, width = (size, size) if isinstance(size, int) else size
    read: collections.deque[tuple[Path, np.ndarray]] = collections.deque()

    def images() -> Iterator[np.ndarray]:
        for path in paths:
            image = slice_files.read(path, about.in_channels)
            read.append((path, image))
            small = resize_images(image[None], (height, width))[0]
            yield small[..., ::-1] if options.channel_order == "ref_bgr" else small

    for logits in network.logits(images()):
        path, image = read.popleft()
        mask = (metrics.probabilities(logits[..., 0]) >= options.threshold).astype(np.uint8)
        yield path, image, resize_masks(mask[None], image.shape[:2])[0]


def _write_table(path: Path, rows: Sequence[SegmentedSlice]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "lesion_pixels", "share"))
        table.writerows((row.file, row.lesion_pixels, f"{row.share:.6f}") for row in rows)


def _targets(path: Path, out: Path) -> tuple[Path, Path]:
    return (
        out / f"{path.stem}{slice_files.MASK}{path.suffix}",
        out / f"{path.stem}{slice_files.OVERLAY}.png",
    )
