"""load: a cohort of phantom patients in the form of the LGG set."""

import concurrent.futures
import os
from pathlib import Path

import numpy as np

from fp4jax.data.cohort import Cohort
from fp4jax.data.lgg import CHANNELS
from fp4jax.data.phantom import cache as disk
from fp4jax.data.phantom.fields import stream
from fp4jax.data.phantom.geometry import Grid
from fp4jax.data.phantom.record import patient
from fp4jax.data.phantom.template import TEMPLATE_SHA256
from fp4jax.data.progress import track
from fp4jax.files import expanded

#: Part of the cache's key: raise it with every change that changes a pixel.
GENERATOR_VERSION = 1

# Of the 110 LGG patients, 9 have no post-contrast and 6 no pre-contrast sequence.
_WITHOUT_POST, _WITHOUT_PRE = 9 / 110, 6 / 110
_MOST_WORKERS = 8


def load(
    patients: int = 60,
    slices: int = 30,
    image_size: int = 128,
    seed: int = 2026,
    *,
    channel_order: str = "rgb",
    cache: str | os.PathLike | bool | None = None,
    workers: int | None = None,
) -> Cohort:
    """A synthetic glioma cohort that looks like the LGG set: a head, a tumour, an annotator.

    Channels are pre-contrast T1, FLAIR and post-contrast T1; as in the LGG set, FLAIR stands in
    where a patient has no pre-contrast (6 of 110) or no post-contrast image (9 of 110). About 1 %
    of the pixels and 35 % of the slices are positive. Patient i is the same in every cohort of one
    seed, whatever its size and the number of workers. Scores on it say nothing about patients.

    Args:
        patients: number of patients, named phantom_0000 and so on.
        slices: axial slices of each patient, from below the cerebellum to the scalp; at least 4.
        image_size: height and width in pixels, at least 16; the field of view is 222 to 250 mm.
        seed: other seeds are other patients.
        channel_order: ``"rgb"`` (pre-contrast, FLAIR, post-contrast) or ``"ref_bgr"``, reversed.
        cache: folder that keeps cohorts; None means $FP4JAX_CACHE, else ~/.cache/fp4jax; False
            keeps none.
        workers: threads, each with a patient at a time; None means one for each core, at most 8.

    Returns:
        The cohort, patient by patient; its images and masks are mapped from disk if cached.

    Raises:
        ValueError: a number out of its range or an unknown channel order.

    Example:
        >>> cohort = load(patients=2, slices=8, image_size=32, cache=False)
        >>> cohort.images.shape, cohort.patients
        ((16, 32, 32, 3), ('phantom_0000', 'phantom_0001'))
    """
    grid = Grid(slices, image_size)
    workers = _cores() if workers is None else workers
    for name, value, least in (
        ("patients", patients, 1),
        ("seed", seed, 0),
        ("workers", workers, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; use an integer of at least {least}.")
    if channel_order not in CHANNELS:
        raise ValueError(f"channel_order is {channel_order!r}; {' and '.join(CHANNELS)} exist.")
    if cache is True:
        raise ValueError("cache is True; name a folder, or pass None for the default one.")
    if cache is False:
        return _generate(patients, grid, seed, channel_order, workers)
    entry = _entry(
        expanded(cache) or disk.default_folder(),
        patients=patients,
        slices=slices,
        image_size=image_size,
        seed=seed,
        channel_order=channel_order,
    )
    cohort = disk.find(entry)
    if cohort is None:
        cohort = _generate(patients, grid, seed, channel_order, workers)
        disk.keep(cohort, entry)
    return cohort


def sequences(index: int, seed: int) -> tuple[str, str, str]:
    """The contrasts in the channels (pre-contrast, FLAIR, post-contrast) of a patient."""
    chance = stream(seed, index, "protocol").random()
    if chance < _WITHOUT_POST:
        return "t1", "flair", "flair"
    if chance < _WITHOUT_POST + _WITHOUT_PRE:
        return "flair", "flair", "t1c"
    return "t1", "flair", "t1c"


def _entry(folder: Path, **arguments: object) -> Path:
    name = disk.key(version=GENERATOR_VERSION, template=TEMPLATE_SHA256, **arguments)
    return folder / "phantom" / name


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, _MOST_WORKERS)


def _generate(patients: int, grid: Grid, seed: int, channel_order: str, workers: int) -> Cohort:
    slices, height, width = grid.shape
    images = np.empty((patients, slices, height, width, 3), np.uint8)
    masks = np.empty((patients, slices, height, width), np.uint8)

    def make(index: int) -> None:
        names = sequences(index, seed)
        one = patient(
            index,
            seed,
            slices=slices,
            image_size=grid.image_size,
            contrasts=tuple(dict.fromkeys(names)),
        )
        order = names if channel_order == "rgb" else names[::-1]
        for channel, name in enumerate(order):
            images[index, ..., channel] = one.images[name]
        masks[index] = one.mask

    # Threads: NumPy and SciPy release the interpreter's lock in nearly all of the work.
    with concurrent.futures.ThreadPoolExecutor(min(workers, patients)) as pool:
        for _ in track(pool.map(make, range(patients)), "Making phantom patients", total=patients):
            pass
    ids = np.array([f"phantom_{index:04d}" for index in range(patients)])
    return Cohort(
        images=images.reshape(-1, height, width, 3),
        masks=masks.reshape(-1, height, width),
        patient_ids=np.repeat(ids, slices),
        slice_index=np.tile(np.arange(slices, dtype=np.int32), patients),
        name="phantom",
        channels=CHANNELS[channel_order],
    )
