"""segment_volumes(network, source, out): label maps of NIfTI cases, and scores with labels."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data.nifti import LABELS, Case, LoadedCase, VolumeSet
from fp4jax.data.progress import track
from fp4jax.predict.case_picture import need_matplotlib, picture_of_case
from fp4jax.predict.journal import Job, Journal
from fp4jax.predict.network import Network
from fp4jax.predict.volume_files import check
from fp4jax.train import Source, Volumes
from fp4jax.train.volumes.data import open_volumes, save
from fp4jax.train.volumes.digest import digest
from fp4jax.train.volumes.scoring import Report, region_report, write_table

TABLE = "scores.csv"
# Of a task, what segmenting depends on and a command may say otherwise.
_OPTIONS = ("overlap", "spacing", "layout", "patterns", "label", "labels", "mask")


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
    *,
    overwrite: bool = False,
    pictures: bool = False,
) -> list[SegmentedCase]:
    """Segments all cases of a folder, and compares with their labels where they have any.

    Repeated after an interruption it goes on with the cases that are missing; the table has all
    of them in the end. Files are opened, once, before anything is written, and again when it is
    their turn.

    Args:
        network: of volumes; its task says how the folder is laid out, and how windows overlap.
        source: the folder of the cases.
        out: gets ``CASE.nii.gz``: label maps with affine and header of the case's images, in the
            label values of the layout; made if it is not there. And if there are labels,
            ``scores.csv`` with the metrics of :func:`fp4jax.metrics.region_report`. In a folder of
            one's own layout for which no label values are known, they are BraTS 2023's, or the
            regions' numbers from 1 on.
        overwrite: replace files of another command.
        pictures: write ``CASE.png`` too. Pictures of patients may not be passed on freely.

    Returns:
        What was found, case by case.

    Raises:
        ValueError: cases that cannot be used, all of them named, or files of another command that
            would be replaced; nothing is written then.
        OSError: a folder that cannot be read or written.
    """
    out = Path(out).expanduser()
    if pictures:
        need_matplotlib()
    volumes = _open(network, source)
    jobs = [_job(case, volumes, out, pictures) for case in volumes.cases]
    journal = Journal(out, _command(network, volumes), overwrite=overwrite)
    others = [out / TABLE] if any(case.label is not None for case in volumes.cases) else []
    left = {job.name for job in journal.remaining(jobs, others)}
    places = [place for place, job in enumerate(jobs) if job.name in left]
    check(volumes, places, keep=source.cache is not None)
    journal.begin()
    for place in track(places, "Segmenting", total=len(places)):
        journal.add(jobs[place], _segment(network, volumes.load(place), jobs[place].outputs))
    found = [SegmentedCase(job.name, job.outputs[0], **journal.done[job.name]) for job in jobs]
    scored = {one.case: one.scores for one in found if one.scores is not None}
    if scored:
        write_table(out / TABLE, scored)
    return found


def volumes_task(network: Network) -> Volumes:
    """The task of a network of volumes.

    Raises:
        ValueError: a network of something else.
    """
    if not isinstance(network.task, Volumes):
        raise ValueError(
            f"the model {network.about.run} is of {network.task.kind}, not of volumes; segment "
            "slices with experiments.predict."
        )
    return network.task


def path_of_picture(path: Path) -> Path:
    """The picture beside a label map.

    Example:
        >>> path_of_picture(Path("case.nii.gz")).name
        'case.png'
    """
    return path.with_name(path.name.removesuffix(".nii.gz") + ".png")


def _open(network: Network, source: Source) -> VolumeSet:
    """The cases, with the network's channels and regions; prepared volumes are not kept."""
    task, about = volumes_task(network), network.about
    if task.modalities is not None and len(task.modalities) != about.in_channels:
        raise ValueError(
            f"modalities are {task.modalities}; the network has {about.in_channels} channels "
            f"({', '.join(about.channels)}), name the files of each."
        )
    wanted = task.modalities or (None if task.patterns else about.channels)
    cases = dataclasses.replace(task, modalities=wanted).cases(source)
    cases = [_with_table(case, task, about.regions) for case in cases]
    return open_volumes(
        task, cases, source, task.modalities or about.channels, about.regions, keep=False
    )


def _with_table(case: Case, task: Volumes, regions: Sequence[str]) -> Case:
    """A case with label values for its results, also where its folder has no label maps."""
    if case.labels is not None or case.layout in LABELS:
        return case
    table: Any = LABELS[task.layout if task.layout in LABELS else "brats2023"]
    if not set(regions) <= set(table):
        table = {name: {number} for number, name in enumerate(regions, start=1)}
    return dataclasses.replace(case, labels=table)


def _command(network: Network, volumes: VolumeSet) -> dict[str, Any]:
    """What the results depend on beside the cases."""
    task = volumes_task(network)
    options = {name: getattr(task, name) for name in _OPTIONS}
    return {**network.identity, **options, "modalities": volumes.modalities}


def _job(case: Case, volumes: VolumeSet, out: Path, pictures: bool) -> Job:
    path = out / f"{case.id}.nii.gz"
    outputs = (path, path_of_picture(path)) if pictures else (path,)
    return Job(case.id, digest([case], volumes.modalities, volumes.regions), outputs)


def _segment(network: Network, case: LoadedCase, outputs: Sequence[Path]) -> dict[str, Any]:
    """Writes the files of a case, and says what was found."""
    masks = network.segment(case.image).masks
    save(outputs[0], masks, case, overwrite=True)
    for path in outputs[1:]:
        picture_of_case(path, case, masks)
    voxel = float(np.prod(case.spacing)) / 1000
    counts = masks.sum((0, 1, 2), dtype=np.int64)
    return {
        "volumes": {name: float(n) * voxel for name, n in zip(case.regions, counts, strict=True)},
        "scores": None if case.target is None else region_report(masks, case),
    }
