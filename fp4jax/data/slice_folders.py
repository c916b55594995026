"""Slices in PNG and TIFF in folders of one's own: NAME.png and its mask NAME_mask.png beside it.

Each folder with slices is a scan, wherever it lies below the root; whose it is say the names of
folders (:mod:`fp4jax.data.patients`). Files may be of different sizes, and grey or in colours.
"""

import collections
import concurrent.futures
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fp4jax.data import patients as people
from fp4jax.data.cohort import Cohort
from fp4jax.data.folders import readable, walk
from fp4jax.data.image_files import (
    MASK,
    OVERLAY,
    PROBABILITY,
    SUFFIXES,
    read_mask,
    read_pixels,
    with_channels,
)
from fp4jax.data.other_files import others
from fp4jax.data.problems import refuse
from fp4jax.data.progress import track
from fp4jax.data.regrouping import renamed
from fp4jax.data.resize import check_image_size, resize_images, resize_masks
from fp4jax.files import expanded

CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}

_THREADS = 4
_HELP = (
    "A slice NAME.png (.tif) has its mask NAME_mask.png beside it, black where there is no lesion. "
    "Repair these files, or make a folder of links to the others."
)


class SliceFile(NamedTuple):
    """A slice and its mask; ``scan`` is its folder below the root, with ``/``."""

    scan: str
    image: Path
    mask: Path


def load(
    root: str | os.PathLike,
    *,
    image_size: int | None = None,
    patient_pattern: str | None = None,
) -> Cohort:
    """All slices below a folder as a :class:`Cohort`, in order of the names of folders and files.

    Args:
        root: the folder; masks are named ``NAME_mask`` as their slices, as ``fp4jax predict``
            writes them. What ends with ``_overlay`` or ``_probability`` is no slice.
        image_size: height and width in pixels to resize to, images bilinear, masks nearest; None:
            as stored, which must then be the same everywhere.
        patient_pattern: a regular expression whose group is the patient in a folder's name or in
            its path below ``root``; for slices in ``root`` itself, in the files' names. None: by
            the rules of :mod:`fp4jax.data.patients`.

    Returns:
        A cohort of one channel where all slices are grey, also if they are stored in colours; else
        of three.

    Raises:
        ValueError: slices without masks, damaged files, other than 8 bits, mixed sizes without
            ``image_size``, no folders of patients; one message lists the first ten.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     os.makedirs(f"{root}/Ann/2024-02-01")
        ...     for name in ("IM1.png", "IM1_mask.png"):
        ...         Image.new("L", (8, 6)).save(f"{root}/Ann/2024-02-01/{name}")
        ...     load(root, image_size=4)
        Cohort('images', 1 patient, 1 slices of 4x4, channels grey)
    """
    check_image_size(image_size)
    folder = expanded(root) or Path()
    files, problems = find(folder, patient_pattern is not None)

    def read(file: SliceFile) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            image = _pixels(file.image)
            mask = read_mask(file.mask, image.shape[:2])
        except ValueError as error:  # it begins with the file's name
            return f"{file.scan}/{error}"
        if image_size is None:
            return image, mask
        size = image_size, image_size
        return resize_images(image[None], size)[0], resize_masks(mask[None], size)[0]

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(track(pool.map(read, files), "Reading slices", total=len(files)))
    problems += [one for one in found if isinstance(one, str)]
    images = [one[0] for one in found if not isinstance(one, str)]
    masks = [one[1] for one in found if not isinstance(one, str)]
    del found
    if not problems:
        problems += _unlike(files, images)
    if problems:
        refuse(folder, problems, _HELP)
    # A grey slice among coloured ones, such as one outside of the head, has three channels too.
    channels = max(image.shape[-1] for image in images)
    names = _patients([file.scan for file in files], patient_pattern)
    # Of slices in the root itself a scan is all that a patient has there.
    files = [f._replace(scan=names[f.scan]) if f.image.parent == folder else f for f in files]
    numbers = _numbers(files)
    cohort = Cohort(
        images=_stacked(images, channels),
        masks=_stacked(masks),
        patient_ids=np.array([file.scan for file in files]),
        slice_index=np.array([numbers[file.image] for file in files], np.int32),
        name="images",
        channels=CHANNELS[channels],
    )
    return renamed(cohort, {scan: names.get(scan, scan) for scan in cohort.patients})


def find(root: Path, flat: bool = False) -> tuple[list[SliceFile], list[str]]:
    """Slices with their masks, and what does not fit.

    Args:
        root: the folder.
        flat: slices in ``root`` itself are allowed; the scan of each is its name.

    Raises:
        ValueError: no folder, no slices, slices that lie in ``root`` itself, two folders of one
            name.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; name one with {', '.join(SUFFIXES)} files in it.")
    files: list[SliceFile] = []
    problems: list[str] = []
    every: list[Path] = []
    scans: dict[str, Path] = {}
    for folder, _, names in walk(root):
        every += [folder / name for name in names]
        own = [Path(name) for name in names if Path(name).suffix.lower() in SUFFIXES]
        stems = collections.defaultdict(list)
        for path in own:
            if not path.stem.lower().endswith((OVERLAY, PROBABILITY)):
                stems[path.stem.lower()].append(path)
        place = readable(folder.relative_to(root).as_posix())
        if stems and scans.setdefault(place, folder) != folder:
            raise ValueError(
                f"{root}: two folders have the name {place}, their letters written in two ways "
                "(Unicode NFC and NFD); rename one, or remove the copy."
            )
        for stem, paths in stems.items():
            shown = readable(paths[0].name if place == "." else f"{place}/{paths[0].name}")
            masks = stems.get(stem + MASK, [])
            if len(paths) > 1:
                twice = ", ".join(path.name for path in paths)
                problems.append(f"{shown}: occurs more than once ({twice})")
            elif stem.endswith(MASK):
                if stem.removesuffix(MASK) not in stems:
                    problems.append(f"{shown}: the slice of this mask is missing")
            elif not masks:
                problems.append(f"{shown}: its mask is missing")
            elif len(masks) == 1:
                scan = readable(paths[0].stem) if place == "." else place
                files.append(SliceFile(scan, folder / paths[0], folder / masks[0]))
    if not files:
        if problems:
            refuse(root, problems, _HELP)
        nifti = [path.name for path in every if re.search(r"\.nii(\.gz)?$", path.name)]
        hint = others(every)
        if nifti:
            hint = (
                f" Files such as {readable(nifti[0])} are NIfTI volumes: --data brats makes slices "
                "of them, fp4jax train-volumes takes them whole."
            )
        raise ValueError(f"{root} has no slices: no {', '.join(SUFFIXES)} files.{hint}")
    if not flat and "." in scans:
        raise ValueError(
            f"{root} has slices in itself, and nothing says of which patients they are; put each "
            "patient's into a folder, or give --patient-pattern with a group that is the patient "
            r"in the files' names, such as '^(.+)_\d+$'."
        )
    order = {file: (_natural(file.scan), _natural(file.image.name)) for file in files}
    return sorted(files, key=order.__getitem__), problems


def _pixels(path: Path) -> np.ndarray:
    """uint8 (h, w, 1) of grey, (h, w, 3) of colours that are not all grey."""
    pixels = read_pixels(path)
    if pixels.dtype not in (np.uint8, np.bool_):
        raise ValueError(
            f"{path.name}: is {pixels.dtype}; slices have 8 bits for each channel. Rescale those "
            "of all patients in the same way to 0 to 255"
        )
    coloured = pixels.ndim == 3 and pixels.shape[-1] in (3, 4)
    if coloured and (pixels[..., :3] != pixels[..., :1]).any():
        return with_channels(pixels, path, 3)
    return with_channels(pixels, path, 1)


def _unlike(files: Sequence[SliceFile], images: Sequence[np.ndarray]) -> list[str]:
    """Slices that are not of the size of most."""
    often = collections.Counter(image.shape[:2] for image in images)
    (usual, _), *rest = often.most_common()
    return [
        f"{file.scan}/{file.image.name}: is {image.shape[:2]}, most slices are {usual}; give "
        "image_size, to which all are resized"
        for file, image in zip(files, images, strict=True)
        if rest and image.shape[:2] != usual
    ]


def _stacked(arrays: list[np.ndarray], *channels: int) -> np.ndarray:
    """One array of many; the list is emptied, for there may be no memory for both."""
    stacked = np.empty((len(arrays), *arrays[0].shape[:2], *channels), np.uint8)
    for i in reversed(range(len(arrays))):
        stacked[i] = arrays.pop()
    return stacked


def _numbers(files: Sequence[SliceFile]) -> Mapping[Path, int]:
    """The position of each slice in its scan: the number that its name ends with, else its rank."""
    found: dict[Path, int] = {}
    scans: dict[str, list[Path]] = collections.defaultdict(list)
    for file in files:
        scans[file.scan].append(file.image)
    for paths in scans.values():
        ends = [re.search(r"\d{1,9}$", path.stem) for path in paths]
        own = [int(end[0]) for end in ends if end]
        if len(set(own)) < len(paths):
            own = list(range(1, len(paths) + 1))
        found |= dict(zip(paths, own, strict=True))
    return found


def _patients(scans: Sequence[str], pattern: str | None) -> dict[str, str]:
    """Scan -> patient."""
    named = [people.Scan(scan.rpartition("/")[2], scan) for scan in scans]
    found = people.group(named, pattern)
    return {scan: patient.id for scan, patient in zip(scans, found, strict=True)}


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in the order of numbers: IM2 before IM10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part]
