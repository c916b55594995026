"""evaluate_file(path, data): scores of a packed file, of patients that its model has not seen."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data import Cohort, Split
from fp4jax.inference import Segmentation
from fp4jax.predict.about import About, hashed
from fp4jax.predict.network import Network, from_file
from fp4jax.train import Data, RunConfig, Trained
from fp4jax.train.evaluation import check_names, not_seen
from fp4jax.train.folder import RunFolder
from fp4jax.train.member import bound


def evaluate_file(
    path: str | Path, data: Data | Cohort, *, all_patients: bool = False
) -> dict[str, Any]:
    """As :func:`fp4jax.train.evaluate_folder` for a packed file.

    A file knows its patients by hashes of their ids and of their images. Of one that does not (of
    an earlier version, or a checkpoint's) no patient is scored, unless all are asked for; then it
    is said that some may have been trained on.

    Args:
        path: of the file.
        data: for slices a cohort with images of the model's size, or opened data.
        all_patients: of the run's own data too, every patient that it has not seen; of a file that
            does not know its patients, all.

    Raises:
        ValueError: no packed model, data that do not fit, or nothing left to score.
    """
    network = from_file(path)
    about = network.about
    config = RunConfig(network.task, arch=about.arch, scale=about.scale)
    data = bound(config, data)
    run = _run_of(Path(path), about, config)
    check_names(run, data)
    scored, said = _scored(run, about, data, all_patients)
    # What cannot be read is said before anything is computed, and all of it.
    data.prepare(scored)
    model: Any = AsModel(network)
    scores = data.score(model, scored, about.threshold)
    return {
        "threshold": about.threshold,
        "run": about.run,
        "patients": len(scored),
        **said,
        **{name: value for name, value in scores.items() if name != "patients"},
    }


@dataclasses.dataclass(frozen=True)
class AsModel:
    """A network as the scores of data use a run's model."""

    network: Network

    def logits(self, images: np.ndarray) -> np.ndarray:
        """As :meth:`fp4jax.train.Model.logits`."""
        (predict,) = self.network.predicts
        return np.stack(list(predict(images)))

    def segment(self, image: np.ndarray) -> Segmentation:
        """As :meth:`fp4jax.train.Model.segment`."""
        return self.network.segment(image)


def _run_of(path: Path, about: About, config: RunConfig) -> Trained:
    """What is known of the run that a file is of."""
    known = about.patients
    split = Split(known["train"], known["val"], known["test"], "packed") if known else None
    return Trained(
        folder=RunFolder(path),
        config=config,
        channels=about.channels or tuple(f"channel {i}" for i in range(about.in_channels)),
        regions=about.regions,
        split=split,
        contents=dict(about.contents),
        digest=about.digest,
        summary=None,
    )


def _scored(
    run: Trained, about: About, data: Data, every: bool
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The patients to score, and what is said of them."""
    if run.split is None:
        if not every:
            raise ValueError(
                f"{run.folder.path} says of which run it is ({about.run or 'of none'}), not on "
                "which patients that was trained; evaluate the run's folder, save the file again "
                "from it, or pass --all-patients to score all of these."
            )
        said = f"all {len(data.patients)} patients; which of them it was trained on is not known"
        return data.patients, {"scored": said, "left_out": {}}
    names = {hashed(patient): patient for patient in data.patients}
    contents = {key: data.contents[patient] for key, patient in names.items()}
    own = run.digest == data.digest
    path = str(run.folder.path)
    chosen = not_seen(path, run.split, run.contents, contents, own=own, every=every)
    left_out = {
        reason: sorted(names[key] for key in keys) for reason, keys in chosen.left_out.items()
    }
    scored = tuple(sorted(names[key] for key in chosen.patients))
    return scored, {"scored": str(chosen), "left_out": left_out}
