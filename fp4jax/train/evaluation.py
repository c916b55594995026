"""Evaluation of a trained model on the validation and the test patients of its split."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax import metrics
from fp4jax.data import Cohort, Split
from fp4jax.files import read_json
from fp4jax.train import patients
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.config import from_json
from fp4jax.train.folder import RunFolder
from fp4jax.train.loop import padded_batches
from fp4jax.train.parts import check_size, split_of
from fp4jax.train.predictions import picture
from fp4jax.train.program import Program

# Above this many pixels AUPRC comes from a histogram, with bounds.
EXACT_PIXELS = 64_000_000
# Reported at the validation's best threshold too.
THRESHOLDED = tuple(
    f"hard_{name}"
    for name in ("recall", "precision", "f2_score", "iou", "dice", "dice_positive", "dice_patient")
)


def predict(program: Program, params: Any, stats: Any, images: np.ndarray) -> np.ndarray:
    """Probabilities (n, h, w) of images as stored, in batches of the run's size."""
    maps = np.empty(images.shape[:3], np.float32)
    for index, weights in padded_batches(np.arange(len(images)), program.config.batch_size):
        logits = program.predict(params, stats, images[index])
        real = weights > 0
        maps[index[real]] = metrics.probabilities(logits)[real]
    return maps


def evaluate(
    program: Program, params: Any, stats: Any, cohort: Cohort, split: Split, folder: RunFolder
) -> dict[str, Any]:
    """All metrics of the validation and the test patients; draws the prediction pictures.

    Beside the pictures the folder gets what curves and resampling need, see
    :mod:`fp4jax.train.patients`.

    Hard metrics are at the threshold 0.5; ``hard_*_at_best`` at ``threshold``, the one that has
    the best F2 on the validation patients. ``test_patients`` is the volumetric Dice there.
    """
    threshold, scores = 0.5, {}
    for part in ("val", "test"):
        own = cohort.select(getattr(split, part))
        maps = predict(program, params, stats, own.images)
        if part == "val":
            threshold = _best_threshold(own, maps)
        scores[part], dice = _report(own, maps, threshold)
        patients.write_scores(folder.path / f"{part}_scores.npz", own, maps)
        if part == "test":
            patients.write_examples(folder.path / "examples.npz", own, maps)
            _draw(own, maps, dice, threshold, folder)
            scores["test_patients"] = dice
    return {"threshold": threshold, **scores}


def _best_threshold(cohort: Cohort, maps: np.ndarray) -> float:
    return metrics.threshold_sweep(maps, cohort.masks).best_threshold


def _report(
    cohort: Cohort, maps: np.ndarray, threshold: float
) -> tuple[dict[str, float], dict[str, float]]:
    """All metrics, and the volumetric Dice of each patient at ``threshold``."""
    report = metrics.evaluate(
        maps,
        cohort.masks,
        cohort.patient_ids,
        kind="probabilities",
        exact=maps.size <= EXACT_PIXELS,
    )
    sums = metrics.ImageSums.of(
        maps.reshape(len(cohort), -1), cohort.masks.reshape(len(cohort), -1), threshold
    )
    at_best = sums.report(cohort.patient_ids)
    volumes = sums.by_patient(cohort.patient_ids).hard_dice()
    dice = dict(zip(cohort.patients, volumes.tolist(), strict=True))
    return report | {f"{name}_at_best": at_best[name] for name in THRESHOLDED}, dice


def _draw(cohort, maps, dice, threshold, folder: RunFolder) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        # A machine that only trains needs no pictures.
        return
    picture(cohort, maps, dice, threshold, folder.path / "predictions.png", folder.path.name)


def restore(program: Program, folder: RunFolder) -> tuple[Any, Any, dict[str, Any]]:
    """(last state, best parameters and statistics, bookkeeping) of a trained run.

    Raises:
        ValueError: if the folder has no checkpoint.
    """
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        state = jax.eval_shape(program.start, jnp.zeros((), jnp.uint32))
        epochs = checkpoints.epochs()
        if not epochs:
            raise ValueError(f"{folder.path} has no checkpoint any more; train the run again.")
        return checkpoints.restore(epochs[-1], state, (state.params, state.stats))
    finally:
        checkpoints.close()


def evaluate_folder(path: Path, cohort: Cohort, *, all_patients: bool = False) -> dict[str, Any]:
    """The metrics of a finished run's best epoch on a cohort, at 0.5 and at the run's threshold.

    Args:
        path: the run's folder.
        cohort: with images of the run's size.
        all_patients: every patient, not only the test patients of the run's split.

    Raises:
        ValueError: the folder holds no finished run, or the cohort does not fit it.

    Example:
        >>> import tempfile
        >>> from fp4jax.data import phantom
        >>> from fp4jax.train import RunConfig, train
        >>> cohort = phantom.load(patients=20, slices=4, image_size=16, cache=False)
        >>> small = {"model_options": {"stages": 2, "channels": 16}, "batch_size": 16}
        >>> run = RunConfig("phantom", 16, arch="cnn", epochs=1, augment=False, **small)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     (folder,) = train(run, cohort, Path(out))
        ...     scores = evaluate_folder(folder.path, cohort)
        ...     abs(scores["auprc"] - folder.summary()["test"]["auprc"]) < 1e-6
        True
    """
    folder = RunFolder(path)
    config, summary = read_json(path / "config.json"), folder.summary()
    if config is None or summary is None:
        raise ValueError(f"{path} holds no finished run; name a folder with a summary.json.")
    run = from_json(config)
    check_size(run, cohort)
    own = cohort if all_patients else cohort.select(split_of(run, cohort).test)
    program = Program(run, len(cohort.channels), steps=1)
    _, (params, stats), _ = restore(program, folder)
    maps = predict(program, params, stats, own.images)
    report, _ = _report(own, maps, summary["threshold"])
    return {"threshold": summary["threshold"], "patients": len(own.patients), **report}
