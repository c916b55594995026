"""segment: label maps of cases without labels, by a finished run or by a checkpoint in FP4."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fp4jax.data.nifti import REGIONS, LoadedCase
from fp4jax.data.nifti.brats import MODALITIES
from fp4jax.data.progress import track
from fp4jax.files import read_json
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.folder import RunFolder
from fp4jax.volumes.cases import Source, open_volumes, save
from fp4jax.volumes.config import VolumeRun, from_json
from fp4jax.volumes.evaluation import Report, draw_case, report, write_table
from fp4jax.volumes.inference import Segmenter
from fp4jax.volumes.program import program_of

TABLE = "scores.csv"
# What may be another for inference than it was in training.
_FREE = ("recipe", "overlap", "windows")


@dataclasses.dataclass(frozen=True)
class Segmented:
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


def from_run(path: str | os.PathLike, changes: VolumeRun | None = None) -> Segmenter:
    """The best epoch of a finished run.

    Args:
        path: the run's folder.
        changes: a configuration whose recipe, overlap and windows are used where they are not the
            defaults; another recipe than the run's is quantization after training. Nothing else
            may differ from the defaults.

    Raises:
        ValueError: no finished run, no checkpoint, or a change of something else.
    """
    folder = RunFolder(Path(path))
    record, summary = read_json(folder.path / "config.json"), folder.summary()
    if record is None or summary is None or "patch_size" not in record:
        raise ValueError(
            f"{path} holds no finished run on volumes; name a folder with a summary.json."
        )
    config = dataclasses.replace(from_json(record), **_changes(changes))
    regions, modalities = tuple(summary["regions"]), tuple(summary["modalities"])
    program = program_of(config, len(modalities), len(regions))
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        epochs = checkpoints.epochs()
        if not epochs:
            raise ValueError(f"{path} has no checkpoint any more; train the run again.")
        like = program.abstract()
        _, (params, stats), _ = checkpoints.restore(epochs[-1], like, (like.params, like.stats))
    finally:
        checkpoints.close()
    return Segmenter(program, params, stats, modalities, regions)


def from_weights(config: VolumeRun) -> Segmenter:
    """A checkpoint with torch's names, such as MONAI's, under the recipe of the configuration.

    Args:
        config: names the checkpoint, the model that it fits, and the order of its channels;
            default: flair, t1, t1c, t2, and whole tumour, tumour core, enhancing.

    Raises:
        ValueError: no checkpoint is named, or it does not fit the model.
    """
    if config.weights is None:
        raise ValueError("nothing to segment with: name a run's folder, or --weights CHECKPOINT.")
    modalities, regions = config.modalities or MODALITIES, config.regions or REGIONS
    program = program_of(config, len(modalities), len(regions))
    state = program.init(jnp.uint32(config.seed))
    return Segmenter(program, state.params, state.stats, modalities, regions)


def segment(
    segmenter: Segmenter,
    source: Source,
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    pictures: bool = False,
) -> list[Segmented]:
    """Segments all cases of a folder, and compares with their labels where they have any.

    Args:
        segmenter: what to segment with.
        source: the folder of the cases.
        out: gets ``CASE.nii.gz``: label maps with affine and header of the case's images, in the
            label values of the layout; made if it is not there. And if there are labels,
            ``scores.csv`` with the metrics of :func:`fp4jax.metrics.region_report`.
        overwrite: replace files of an earlier call.
        pictures: write ``CASE.png`` too. Pictures of patients may not be passed on freely.

    Returns:
        What was found, case by case.

    Raises:
        ValueError: cases that cannot be used, or files that would be replaced; nothing is written
            then.
        OSError: a folder that cannot be read or written.
    """
    config = segmenter.program.config
    cases = source.cases(segmenter.modalities)
    volumes = open_volumes(
        cases, config, source, segmenter.modalities, segmenter.regions, keep=False
    )
    out = Path(out)
    targets = [out / f"{case.id}.nii.gz" for case in volumes.cases]
    wanted = [*targets, out / TABLE, *(path_of_picture(path) for path in targets if pictures)]
    existing = [path for path in wanted if path.exists()]
    if existing and not overwrite:
        others = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ValueError(
            f"{existing[0]}{others} exist already; name another folder, or pass --overwrite."
        )
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for place, path in enumerate(track(targets, "Segmenting", total=len(targets))):
        case = volumes.load(place)
        predicted = segmenter(case.image)
        save(path, predicted, case, overwrite=overwrite)
        if pictures:
            draw_case(path_of_picture(path), case, predicted, segmenter.modalities)
        scores = None if case.target is None else report(predicted, case)
        sizes = _millilitres(predicted, case)
        found.append(Segmented(case.id, path, sizes, scores))
    scored = {one.case: one.scores for one in found if one.scores is not None}
    if scored:
        write_table(out / TABLE, scored)
    return found


def path_of_picture(path: Path) -> Path:
    """The picture beside a label map.

    Example:
        >>> path_of_picture(Path("case.nii.gz")).name
        'case.png'
    """
    return path.with_name(path.name.removesuffix(".nii.gz") + ".png")


def _changes(changes: VolumeRun | None) -> dict[str, Any]:
    """What differs from the defaults, and may."""
    fields = {} if changes is None else dataclasses.asdict(changes)
    differing = {k: v for k, v in fields.items() if v != getattr(VolumeRun(), k)}
    refused = [name for name in differing if name not in _FREE]
    if refused:
        raise ValueError(
            f"{', '.join(refused)} cannot be changed, because the run has settled it; only "
            f"{', '.join(_FREE)} can."
        )
    return differing


def _millilitres(masks: np.ndarray, case: LoadedCase) -> dict[str, float]:
    voxel = float(np.prod(case.spacing)) / 1000
    counts = masks.sum((0, 1, 2), dtype=np.int64)
    return {name: float(n) * voxel for name, n in zip(case.regions, counts, strict=True)}
