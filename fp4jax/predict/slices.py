"""segment_slices(network, source, out): masks, overlays and a table of slices in PNG or TIFF."""

import collections
import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fp4jax.data.image_files import read_image, read_mask
from fp4jax.data.nifti.resample import resample
from fp4jax.data.progress import track
from fp4jax.data.resize import resize_images, resize_masks
from fp4jax.files import replacing
from fp4jax.inference import without_small
from fp4jax.predict import slice_files
from fp4jax.predict.journal import Job, Journal
from fp4jax.predict.network import Network
from fp4jax.train import Slices
from fp4jax.train.volumes.digest import fingerprint

TABLE = "predictions.csv"


@dataclasses.dataclass(frozen=True)
class SliceOptions:
    """How slices are segmented; no slice depends on the others."""

    # probability from which a pixel is lesion; default: the model's
    threshold: float | None = None
    # how the model takes the channels of the files: rgb as stored; ref_bgr reversed, as the
    # reference does; default: as it was trained
    channel_order: Literal["rgb", "ref_bgr"] | None = None
    # connected components of fewer pixels are removed (0: none)
    min_pixels: int = 0
    # write the probabilities too, NAME_probability.tif (float32)
    probabilities: bool = False
    # draw the slices with what was found, NAME_overlay.png; pictures of patients may not be passed
    # on freely
    pictures: bool = False
    # replace files of another command
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a probability, 0 to 1.")
        if self.min_pixels < 0:
            raise ValueError(f"min_pixels is {self.min_pixels}; give a number, 0 for none.")


@dataclasses.dataclass(frozen=True)
class SegmentedSlice:
    """What was found in one slice, a row of the table.

    Attributes:
        file: path of the slice below the folder that was asked for.
        lesion_pixels, pixels: found, and all.
        target_pixels, shared_pixels: of the mask that lies beside, and in both; None without one.
    """

    file: str
    lesion_pixels: int
    pixels: int
    target_pixels: int | None = None
    shared_pixels: int | None = None

    @property
    def share(self) -> float:
        """Of the slice's pixels."""
        return self.lesion_pixels / self.pixels

    @property
    def dice(self) -> float | None:
        """Against the mask beside; 1 where neither has lesion, None without a mask."""
        return dice_of([self])


def dice_of(rows: Sequence[SegmentedSlice]) -> float | None:
    """Dice of all pixels of slices together, of those that have a mask; None if none has.

    Example:
        >>> rows = [SegmentedSlice("a.png", 4, 16, 4, 2), SegmentedSlice("b.png", 3, 16)]
        >>> dice_of(rows)
        0.5
    """
    known = [row for row in rows if row.target_pixels is not None]
    if not known:
        return None
    either = sum(row.lesion_pixels + (row.target_pixels or 0) for row in known)
    return 2 * sum(row.shared_pixels or 0 for row in known) / either if either else 1.0


def segment_slices(
    network: Network, source: Path, out: Path, options: SliceOptions | None = None
) -> list[SegmentedSlice]:
    """Segments slices; repeated after an interruption it goes on.

    A slice is resized to the model's size (bilinear), its mask back to its own size (nearest).
    Writes for ``name.tif`` (or .tiff, .png) ``name_mask.tif`` with 0 and 255, and a table
    ``predictions.csv`` (file, lesion_pixels, share). Slices that have a ``name_mask.tif`` beside
    them are compared with it (target_pixels, dice).

    Args:
        network: of slices.
        source: the folder of slices, uint8 with the channels of the model's cohort; or a folder of
            such folders, of patients; or one slice.
        out: the folder to write to, with the folders of ``source``; made if it is not there.
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
            "NIfTI files with fp4jax segment."
        )
    options, out = options or SliceOptions(), Path(out).expanduser()
    options, source = _with_defaults(options, network), Path(source).expanduser()
    paths = slice_files.find(source)
    _check_place(paths, out)
    base = source.parent if source.is_file() else source
    names = {path: path.relative_to(base).as_posix() for path in paths}
    jobs = [
        Job(names[path], _fingerprint(path), _targets(out / names[path], options)) for path in paths
    ]
    command = {**network.identity, **dataclasses.asdict(options)}
    del command["overwrite"], command["pictures"]
    journal = Journal(out, command, overwrite=options.overwrite)
    left = {job.name: job for job in journal.remaining(jobs, [out / TABLE])}
    missing = [path for path in paths if names[path] in left]
    slice_files.check(missing, network.about.in_channels)
    journal.begin()
    found = _found(network, missing, options)
    for one in track(found, "Segmenting", total=len(missing)):
        job = left[names[one.path]]
        job.outputs[0].parent.mkdir(parents=True, exist_ok=True)
        slice_files.write_mask(job.outputs[0], one.mask)
        if options.pictures:
            slice_files.write_overlay(job.outputs[1], one.image, one.mask)
        if options.probabilities:
            slice_files.write_probability(job.outputs[-1], one.probability)
        journal.add(job, _counts(one))
    rows = [SegmentedSlice(names[path], **journal.done[names[path]]) for path in paths]
    _write_table(out / TABLE, rows)
    return rows


class _Found(NamedTuple):
    path: Path
    # as stored; the others have its size
    image: np.ndarray
    mask: np.ndarray
    probability: np.ndarray


def _with_defaults(options: SliceOptions, network: Network) -> SliceOptions:
    """What the network says where nothing else is asked for."""
    task, threshold = network.task, options.threshold
    return dataclasses.replace(
        options,
        threshold=network.about.threshold if threshold is None else threshold,
        channel_order=options.channel_order or getattr(task, "channel_order", None) or "rgb",
    )


def _check_place(paths: Sequence[Path], out: Path) -> None:
    """Masks that are found never lie where given ones would."""
    if out.resolve() in {path.resolve().parent for path in paths}:
        raise ValueError(
            f"{out} has the slices in it, and what is found would be taken for masks that belong "
            "to them; give another --out."
        )


def _found(network: Network, paths: Sequence[Path], options: SliceOptions) -> Iterator[_Found]:
    """What is in each slice."""
    about = network.about
    size = about.image_size
    height, width = (size, size) if isinstance(size, int) else size
    read: collections.deque[tuple[Path, np.ndarray]] = collections.deque()

    def images() -> Iterator[np.ndarray]:
        for path in paths:
            image = read_image(path, about.in_channels)
            read.append((path, image))
            small = resize_images(image[None], (height, width))[0]
            yield small[..., ::-1] if options.channel_order == "ref_bgr" else small

    for probabilities in network.probabilities(images()):
        path, image = read.popleft()
        p, shape = probabilities[..., 0], image.shape[:2]
        mask = resize_masks((p >= options.threshold).astype(np.uint8)[None], shape)[0]
        mask = without_small(mask[..., None], options.min_pixels)[..., 0]
        steps = (height / shape[0], width / shape[1], 1.0)
        full = resample(p[..., None], (*shape, 1), steps, linear=True)[..., 0]
        yield _Found(path, image, mask, full)


def _counts(one: _Found) -> dict[str, int]:
    counts = {"lesion_pixels": int(one.mask.sum()), "pixels": one.mask.size}
    if (beside := slice_files.mask_beside(one.path)) is not None:
        target = read_mask(beside, one.mask.shape)
        counts["target_pixels"] = int(target.sum())
        counts["shared_pixels"] = int((target & one.mask).sum())
    return counts


def _write_table(path: Path, rows: Sequence[SegmentedSlice]) -> None:
    header, compared = ["file", "lesion_pixels", "share"], dice_of(rows) is not None
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*header, "target_pixels", "dice"] if compared else header)
        for row in rows:
            values = [row.file, row.lesion_pixels, f"{row.share:.6f}"]
            if compared:
                dice = "" if row.dice is None else f"{row.dice:.6f}"
                values += ["" if row.target_pixels is None else row.target_pixels, dice]
            table.writerow(values)


def _fingerprint(path: Path) -> str:
    """Of a slice, and of the mask beside it."""
    beside = slice_files.mask_beside(path)
    return fingerprint(path) + ("" if beside is None else f" {fingerprint(beside)}")


def _targets(path: Path, options: SliceOptions) -> tuple[Path, ...]:
    """The files of a slice in the folder of results."""
    targets = [path.with_name(f"{path.stem}{slice_files.MASK}{path.suffix}")]
    if options.pictures:
        targets.append(path.with_name(f"{path.stem}{slice_files.OVERLAY}.png"))
    if options.probabilities:
        targets.append(path.with_name(f"{path.stem}{slice_files.PROBABILITY}.tif"))
    return tuple(targets)
