"""The LGG MRI segmentation set (Kaggle ``mateuszbuda/lgg-mri-segmentation``) from its TIFF files.

Layout: one folder per patient with ``<patient>_<slice>.tif`` (uint8, h x w x 3: pre-contrast,
FLAIR, post-contrast) and ``<patient>_<slice>_mask.tif`` (uint8, h x w, 0 or 255). Slices are
numbered from 1 without padding. Source: M. Buda, A. Saha, M. A. Mazurowski, "Association of
genomic subtypes of lower-grade gliomas with shape features automatically extracted by a deep
learning algorithm", Computers in Biology and Medicine 109 (2019). The images are CC BY-NC-SA 4.0.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fp4jax.data import patients as people
from fp4jax.data.cohort import Cohort
from fp4jax.data.folders import entries, note_skipped, readable
from fp4jax.data.image_files import read_mask, read_pixels
from fp4jax.data.problems import listed, refuse
from fp4jax.data.progress import track
from fp4jax.data.regrouping import renamed
from fp4jax.data.resize import check_image_size, resize_images, resize_masks
from fp4jax.files import expanded

# Counts of the complete set, for fp4jax.data.verify.
LGG_EXPECTED = {
    "patients": 110,
    "slices": 3929,
    "positive_slices": 1373,
    "shape": [256, 256, 3],
}

CHANNELS = {
    "rgb": ("pre-contrast", "FLAIR", "post-contrast"),
    "ref_bgr": ("post-contrast", "FLAIR", "pre-contrast"),
}

_SLICE = re.compile(r"(?P<patient>.+)_(?P<slice>\d+)(?P<mask>_mask)?", re.IGNORECASE)
_SECOND_COPIES = ("kaggle_3m", "lgg-mri-segmentation")
_THREADS = 4
_HELP = (
    "Unpack the archive again (kaggle datasets download -d mateuszbuda/lgg-mri-segmentation), or "
    'repair or remove these files, or pass on_error="skip" to leave them out.'
)
_HELP_ROOT = (
    "Give the folder kaggle_3m of the unpacked Kaggle set mateuszbuda/lgg-mri-segmentation, or its "
    "parent. Slices of your own, NAME.png or .tif with NAME_mask.png beside them, are the data set "
    "images (--data images)."
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The image and the mask file of one slice."""

    patient: str
    slice: int
    image: Path
    mask: Path


def load(
    root: str | os.PathLike,
    *,
    image_size: int | None = None,
    channel_order: str = "rgb",
    patient_pattern: str | None = None,
    on_error: str = "raise",
) -> Cohort:
    """The whole set as a :class:`Cohort`, patients in order of their ids, slices by number.

    Args:
        root: the folder ``kaggle_3m`` or one that contains it. One copy is read, even where the
            archive's second copy (``lgg-mri-segmentation/kaggle_3m``) lies beside it.
        image_size: height and width in pixels to resize to; None keeps 256 x 256 as stored.
        channel_order: ``"rgb"``, the stored order (pre-contrast, FLAIR, post-contrast), which is
            the order that the ImageNet constants of ``normalize`` are in; or ``"ref_bgr"``, the
            reversed order that the reference's networks see, for comparisons with it.
        patient_pattern: a regular expression whose group is the patient in a folder's name. None:
            folders that differ in the date alone are of one patient, which has the name without
            it; a patient with one folder has the folder's name.
        on_error: ``"raise"``, or ``"skip"`` to leave out slices that cannot be used with a warning.

    Raises:
        ValueError: files that are missing, damaged or not as described; all are looked at, and one
            message lists the first ten.

    Needs tifffile (and imagecodecs for compressed files).
    """
    if channel_order not in CHANNELS:
        raise ValueError(f"channel_order is {channel_order!r}; {' and '.join(CHANNELS)} exist.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is {on_error!r}; "raise" and "skip" are allowed.')
    check_image_size(image_size)
    folder = find_folder(root)
    pairs, problems = find_pairs(folder)
    if not pairs:
        _report(folder, problems or ["no pair of image and mask"], "raise")
    native = _common_shape(pairs)
    size = native[0], native[1]
    if image_size is not None:
        size = image_size, image_size
    n = len(pairs)
    # Filled in place: a list of slices and its stack would need twice the memory.
    images, masks = np.empty((n, *size, 3), np.uint8), np.empty((n, *size), np.uint8)

    def read(i: int) -> str | None:
        image, mask, problem = _read_pair(pairs[i], native)
        if problem:
            return problem
        image = image[..., ::-1] if channel_order == "ref_bgr" else image
        images[i] = image if image.shape[:2] == size else resize_images(image[None], size)[0]
        masks[i] = mask if mask.shape == size else resize_masks(mask[None], size)[0]
        return None

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(track(pool.map(read, range(n)), "Reading LGG", total=n))
    problems += [problem for problem in found if problem]
    good = [i for i, problem in enumerate(found) if not problem]
    if problems:
        _report(folder, problems, on_error if good else "raise")
    for new, old in enumerate(good):
        if new != old:
            images[new], masks[new] = images[old], masks[old]
    cohort = Cohort(
        images=images[: len(good)],
        masks=masks[: len(good)],
        patient_ids=np.array([pairs[i].patient for i in good]),
        slice_index=np.array([pairs[i].slice for i in good], np.int32),
        name="lgg",
        channels=CHANNELS[channel_order],
    )
    return renamed(cohort, _patients(cohort.patients, patient_pattern))


def _patients(folders: Sequence[str], pattern: str | None) -> dict[str, str]:
    """Folder -> patient."""
    found = people.group([people.Scan(name) for name in folders], pattern)
    often = collections.Counter(patient.id for patient in found)
    return {
        name: patient.id if pattern is not None or often[patient.id] > 1 else name
        for name, patient in zip(folders, found, strict=True)
    }


def find_folder(root: str | os.PathLike) -> Path:
    """The one folder of patient folders at or below ``root``.

    Raises:
        ValueError: there is none.
    """
    root = expanded(root) or Path()
    candidates = [root, root / "kaggle_3m", root / "lgg-mri-segmentation" / "kaggle_3m"]
    candidates += [*sorted(root.glob("*/kaggle_3m")), *sorted(root.glob("*/*/kaggle_3m"))]
    for folder in candidates:
        if any(_tiffs(patient) for patient in _patient_folders(folder)):
            return folder
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder. {_HELP_ROOT}")
    raise ValueError(
        f"No LGG data in {root}: no folder with .tif files in it, nor in its kaggle_3m. "
        f"{_HELP_ROOT}"
    )


def find_pairs(folder: Path) -> tuple[list[Pair], list[str]]:
    """All pairs of image and mask by patient and slice number, and what does not fit.

    A file belongs to the patient whose folder it is in, and is a mask if its own name ends in
    ``_mask``; names of parent folders do not matter.
    """
    pairs, problems = [], []
    patients = _patient_folders(folder)
    names = {patient.name for patient in patients}
    often = collections.Counter(readable(name) for name in names)
    problems += [
        f"{name}: {count} folders have this name, their letters written in two ways (Unicode NFC "
        "and NFD); rename one, or remove the copy"
        for name, count in often.items()
        if count > 1
    ]
    for patient in patients:
        if often[readable(patient.name)] > 1:
            continue
        files: dict[tuple[int, bool], list[Path]] = collections.defaultdict(list)
        tiffs = _tiffs(patient)
        if not tiffs:
            problems.append(f"{readable(patient.name)}: a patient without slices")
        for path in tiffs:
            match = _SLICE.fullmatch(path.stem)
            is_mask = "mask" in path.name.lower()
            if match is None or is_mask != bool(match["mask"]):
                problems.append(
                    f"{_short(path)}: unknown name, not <patient>_<slice>.tif or "
                    "<patient>_<slice>_mask.tif"
                )
            elif match["patient"] != patient.name and match["patient"] in names:
                problems.append(f"{_short(path)}: a slice of another patient")
            else:
                files[int(match["slice"]), is_mask].append(path)
        for number in sorted({number for number, _ in files}):
            image, mask = files.get((number, False), []), files.get((number, True), [])
            if len(image) == len(mask) == 1:
                pairs.append(Pair(readable(patient.name), number, image[0], mask[0]))
            elif len(image) > 1 or len(mask) > 1:
                twice = ", ".join(path.name for path in image + mask)
                problems.append(f"{patient.name}: slice {number} occurs more than once ({twice})")
            else:
                lacks = "mask" if image else "image"
                problems.append(f"{_short((image or mask)[0])}: its {lacks} is missing")
    return pairs, problems


def _patient_folders(folder: Path) -> list[Path]:
    """Folders with slices, and those that are named as if they had some; others are noted."""
    if not folder.is_dir():
        return []
    found = [path for path in entries(folder) if path.is_dir() and path.name not in _SECOND_COPIES]
    patients = [path for path in found if _looks_like_patient(path.name) or _tiffs(path)]
    note_skipped(folder, {path.name for path in set(found) - set(patients)}, "no slices in it")
    return patients


def _looks_like_patient(name: str) -> bool:
    return any(letter.isdigit() for letter in name)


def _tiffs(folder: Path) -> list[Path]:
    """TIFF files of a folder, without the ``._*`` files that macOS adds to archives."""
    return [path for path in entries(folder) if path.suffix.lower() in (".tif", ".tiff")]


def _common_shape(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """The shape of most patients' first readable image; others are then the problem."""
    shapes: collections.Counter[tuple[int, ...]] = collections.Counter()
    for _, slices in itertools.groupby(pairs, key=lambda pair: pair.patient):
        for pair in slices:
            try:
                image = read_pixels(pair.image)
            except ValueError:
                continue
            if image.ndim == 3 and image.shape[2] == 3:
                shapes[image.shape] += 1
                break
    return shapes.most_common(1)[0][0] if shapes else (256, 256, 3)


def _read_pair(pair: Pair, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, str | None]:
    """The image, the mask as 0/1, and what is wrong with them, if anything."""
    none = np.empty(0, np.uint8)
    try:
        image = read_pixels(pair.image)
        if image.shape != shape or image.dtype != np.uint8:
            nan = " with NaN" if image.dtype.kind == "f" and np.isnan(image).any() else ""
            found = f"{image.dtype} {image.shape}{nan}"
            return none, none, f"{_short(pair.image)}: the image is {found}, not uint8 {shape}"
        return image, read_mask(pair.mask, shape[:2]), None
    except ValueError as error:  # it begins with the file's name
        return none, none, readable(f"{pair.image.parent.name}/{error}")


def _short(path: Path) -> str:
    return readable(f"{path.parent.name}/{path.name}")


def _report(folder: Path, problems: list[str], on_error: str) -> None:
    if on_error == "raise":
        refuse(folder, problems, _HELP)
    warnings.warn(f"Slices are left out. {listed(folder, problems)}", stacklevel=3)
