"""Pictures: a listener that draws what runs found in their test patients."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data.nifti import read_volume, to_regions
from fp4jax.predict.case_picture import picture_of_case
from fp4jax.predict.slice_picture import picture
from fp4jax.train import Listener, Slices, Source, Volumes
from fp4jax.train.patients import read_examples
from fp4jax.train.volumes.scoring import PREDICTIONS

PICTURE = "predictions.png"
CASES = "pictures"


class Pictures(Listener):
    """Draws ``predictions.png`` into the folder of each run that ends: best, median, worst patient.

    Training itself draws nothing, and what fails here costs no run
    (:class:`fp4jax.train.Listeners` and the trainer guard it). What is there already stays.

    Args:
        always: also of real patients, whose pictures may not be passed on freely. Runs on the
            synthetic cohort have their picture in any case.
        source: of volumes, where the cases lie: ``pictures/CASE.png``, three planes through each
            test case, are drawn too.

    Example:
        >>> import tempfile
        >>> from fp4jax.data import phantom
        >>> from fp4jax.train import Options, RunConfig, train
        >>> cohort = phantom.load(patients=20, slices=4, image_size=16, cache=False)
        >>> small = {"model_options": {"stages": 2, "channels": 16}, "batch_size": 16}
        >>> config = RunConfig(
        ...     Slices("phantom", image_size=16, augment=False), arch="cnn", epochs=1, **small
        ... )
        >>> with tempfile.TemporaryDirectory() as out:
        ...     (run,) = train(config, cohort, Path(out), options=Options(Pictures()))
        ...     (run.path / "predictions.png").exists()
        True
    """

    def __init__(self, always: bool = False, source: Source | None = None):
        self.always, self.source = always, source

    def ended(self, run: Any, summary: dict[str, Any] | None, folder: Path) -> None:
        """Draws the run's pictures, if it has test patients."""
        if summary is None or not (self.always or is_synthetic(run.data)):
            return
        if (folder / "examples.npz").exists() and not (folder / PICTURE).exists():
            draw_run(folder, summary)
        if isinstance(run.data, Volumes) and self.source is not None:
            draw_cases(folder, run.data, self.source)


def is_synthetic(task: Any) -> bool:
    """Whether a task is that of the synthetic cohort, whose pictures anybody may see."""
    return isinstance(task, Slices) and task.cohort == "phantom"


def draw_run(folder: Path, summary: dict[str, Any], path: Path | None = None) -> Path | None:
    """Writes ``predictions.png`` of a finished run, or ``path``; None if no patient has a Dice."""
    examples = read_examples(folder / "examples.npz")
    dice = {name: d for name, d in summary["test_patients"].items() if d is not None}
    if not dice:
        return None
    path = path or folder / PICTURE
    picture(path, examples, dice, summary["threshold"], title=folder.name)
    return path


def pictures_of(folder: Path, summary: dict[str, Any]) -> dict[str, bytes]:
    """The pictures of a finished run as PNG files by name, for whoever shows them elsewhere.

    ``predictions`` is drawn where the run's folder has none, and the folder stays as it is; of
    ``pictures/CASE`` there are those that lie there.
    """
    found = {f"{CASES}/{path.stem}": path for path in sorted((folder / CASES).glob("*.png"))}
    with tempfile.TemporaryDirectory() as room:
        path: Path | None = folder / PICTURE
        if path is not None and not path.exists():
            known = (folder / "examples.npz").exists()
            path = draw_run(folder, summary, Path(room) / PICTURE) if known else None
        if path is not None:
            found = {path.stem: path, **found}
        return {name: file.read_bytes() for name, file in found.items()}


def draw_cases(folder: Path, task: Volumes, source: Source) -> None:
    """Writes ``pictures/CASE.png`` of the test cases of a finished run, on their own grids."""
    written = {path.name.removesuffix(".nii.gz"): path for path in _maps(folder)}
    missing = {name for name in written if not (folder / CASES / f"{name}.png").exists()}
    if not missing:
        return
    # Label maps are on the files' own grids.
    volumes = dataclasses.replace(task, spacing=None).open(source).volumes
    (folder / CASES).mkdir(exist_ok=True)
    for place, case in enumerate(volumes.cases):
        if case.id in missing:
            labels = read_volume(written[case.id], dtype=np.int16).data
            masks = to_regions(labels, case.table, regions=volumes.regions)
            picture_of_case(folder / CASES / f"{case.id}.png", volumes.load(place), masks)


def _maps(folder: Path) -> list[Path]:
    return sorted((folder / PREDICTIONS).glob("*.nii.gz"))
