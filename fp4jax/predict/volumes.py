"""segment_volumes(network, source, out): label maps of NIfTI cases, and scores with labels."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data.nifti import Case, LoadedCase, VolumeSet, save_prediction
from fp4jax.data.nifti.geometry import millilitres
from fp4jax.data.progress import track
from fp4jax.inference import Segmentation
from fp4jax.predict.case_picture import need_matplotlib, picture_of_case
from fp4jax.predict.journal import Job, Journal
from fp4jax.predict.network import Network
from fp4jax.predict.reading import open_cases, reading_of
from fp4jax.predict.slice_stack import SliceStack, segment_stack
from fp4jax.predict.volume_files import check
from fp4jax.train import Slices, Source, Volumes
from fp4jax.train.volumes.data import save
from fp4jax.train.volumes.digest import digest
from fp4jax.train.volumes.scoring import Report, region_report, write_table
from fp4jax.train.volumes.written import written

TABLE = "scores.csv"
# Of a task, what segmenting depends on and a command may say otherwise.
_OPTIONS = ("overlap", "spacing", "layout", "patterns", "label", "labels", "mask")


@dataclasses.dataclass(frozen=True)
class CaseOptions:
    """How cases are segmented; no case depends on the others."""

    # replace files of another command
    overwrite: bool = False
    # draw the cases with outlines; pictures of patients may not be passed on freely
    pictures: bool = False
    # write the probabilities of the regions too, CASE_probabilities.nii.gz
    probabilities: bool = False
    # connected components of a region that are smaller are removed, ml (0: none)
    min_component: float = 0.0
    # of networks of slices: probability from which a voxel is lesion; default: the model's
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.min_component >= 0:
            raise ValueError(f"min_component is {self.min_component}; give ml, 0 for none.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a probability, 0 to 1.")


@dataclasses.dataclass(frozen=True)
class SegmentedCase:
    """What was found in one case.

    Attributes:
        case: its id.
        path: of the label map.
        volumes: of each region, ml.
        scores: metrics of each region, and their mean; None without labels.
    """

    case: str
    path: Path
    volumes: dict[str, float]
    scores: Report | None


def segment_volumes(
    network: Network,
    source: Source,
    out: str | os.PathLike,
    options: CaseOptions | None = None,
    *,
    reading: Volumes | None = None,
) -> list[SegmentedCase]:
    """Segments all cases of a folder, and compares with their labels where they have any.

    Repeated after an interruption it goes on with the cases that are missing; the table has all
    of them in the end. Files are opened, once, before anything is written, and again when it is
    their turn. Volumes and scores are those of the files as they are written, on the grid of the
    case's images; where a case has a brain mask, nothing outside of it is found.

    Args:
        network: of volumes, or of slices that were made from NIfTI volumes: these are then made
            as the cohort's were, and segmented one by one.
        source: the folder of the cases, or a NIfTI file with the network's channels.
        out: gets ``CASE.nii.gz``: label maps with affine and header of the case's images, in the
            label values of the layout; made if it is not there. And if there are labels,
            ``scores.csv`` with the metrics of :func:`fp4jax.metrics.region_report`. In a folder of
            one's own layout for which no label values are known, they are BraTS 2023's, or the
            regions' numbers from 1 on.
        options: see :class:`CaseOptions`.
        reading: how the folder is laid out, and how windows overlap; default: as the network's
            data were, see :func:`fp4jax.predict.reading_of`.

    Returns:
        What was found, case by case.

    Raises:
        ValueError: cases that cannot be used, all of them named, or files of another command that
            would be replaced; nothing is written then.
        OSError: a folder that cannot be read or written.
    """
    out, options = Path(out).expanduser(), options or CaseOptions()
    reading = reading or reading_of(network)
    network, options = _for_cases(network, reading, options)
    if options.pictures:
        need_matplotlib()
    volumes = open_cases(network, reading, source)
    jobs = [_job(case, volumes, out, options) for case in volumes.cases]
    _check_names(jobs)
    command = _command(network, reading, volumes, options)
    journal = Journal(out, command, overwrite=options.overwrite)
    others = [out / TABLE] if any(case.label is not None for case in volumes.cases) else []
    left = {job.name for job in journal.remaining(jobs, others)}
    places = [place for place, job in enumerate(jobs) if job.name in left]
    check(volumes, places, keep=source.cache is not None)
    journal.begin()
    for place in track(places, "Segmenting", total=len(places)):
        case = volumes.load(place)
        own, found = written(
            case, _segmentation(network, case, options), min_component=options.min_component
        )
        journal.add(jobs[place], _write(own, found, jobs[place].outputs, options))
    found = [SegmentedCase(job.name, job.outputs[0], **journal.done[job.name]) for job in jobs]
    scored = {one.case: one.scores for one in found if one.scores is not None}
    if scored:
        write_table(out / TABLE, scored)
    return found


def _check_names(jobs: Sequence[Job]) -> None:
    """Results of two cases are two files on all systems."""
    first: dict[str, str] = {}
    for job in jobs:
        other = first.setdefault(job.name.lower(), job.name)
        if other != job.name:
            raise ValueError(
                f"{other} and {job.name} would have one result, where systems do not tell capital "
                "letters from small ones; rename one of them."
            )


def _for_cases(
    network: Network, reading: Volumes, options: CaseOptions
) -> tuple[Network, CaseOptions]:
    """The network with its task as it is read now; refuses what would be ignored."""
    if isinstance(network.task, Slices):
        threshold = network.about.threshold if options.threshold is None else options.threshold
        return network, dataclasses.replace(options, threshold=threshold)
    if options.threshold is not None:
        raise ValueError(
            "threshold is of networks of slices; regions of volumes are where a probability is "
            "above 1/2. Leave threshold out."
        )
    return dataclasses.replace(network, task=reading), options


def _segmentation(network: Network, case: LoadedCase, options: CaseOptions) -> Segmentation:
    if options.threshold is None:
        return network.segment(case.image)
    size: Any = network.about.image_size
    return segment_stack(
        network, SliceStack.of(case.case, case.modalities, size), options.threshold
    )


def path_of_picture(path: Path) -> Path:
    """The picture beside a label map.

    Example:
        >>> path_of_picture(Path("case.nii.gz")).name
        'case.png'
    """
    return path.with_name(path.name.removesuffix(".nii.gz") + ".png")


def _command(
    network: Network, reading: Volumes, volumes: VolumeSet, options: CaseOptions
) -> dict[str, Any]:
    """What the results depend on beside the cases."""
    of_data = {name: getattr(reading, name) for name in _OPTIONS}
    of_case = dataclasses.asdict(options)
    for name in ("overwrite", "pictures"):
        del of_case[name]
    return {**network.identity, **of_data, **of_case, "modalities": volumes.modalities}


def _job(case: Case, volumes: VolumeSet, out: Path, options: CaseOptions) -> Job:
    path = out / f"{case.id}.nii.gz"
    outputs = [path]
    if options.pictures:
        outputs.append(path_of_picture(path))
    if options.probabilities:
        outputs.append(out / f"{case.id}_probabilities.nii.gz")
    return Job(case.id, digest([case], volumes.modalities, volumes.regions), tuple(outputs))


def _write(
    case: LoadedCase, found: Segmentation, outputs: Sequence[Path], options: CaseOptions
) -> dict[str, Any]:
    """Writes the files of a case, and says what was found."""
    masks = found.masks
    save(outputs[0], masks, case, overwrite=True)
    if options.pictures:
        picture_of_case(outputs[1], case, masks)
    if options.probabilities:
        save_prediction(outputs[-1], found.probabilities, case, overwrite=True)
    voxel = millilitres(case.affine)
    counts = masks.sum((0, 1, 2), dtype=np.int64)
    return {
        "volumes": {name: float(n) * voxel for name, n in zip(case.regions, counts, strict=True)},
        "scores": None if case.target is None else region_report(masks, case),
    }
