"""Evaluation of a trained model on the validation and the test patients of its split."""

from typing import Any

import numpy as np

from fp4jax import metrics
from fp4jax.data import Cohort, Split
from fp4jax.train.folder import RunFolder
from fp4jax.train.loop import padded_batches
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

    Hard metrics are at the threshold 0.5; ``hard_*_at_best`` at ``threshold``, the one that has
    the best F2 on the validation patients. ``test_patients`` is the volumetric Dice there.
    """
    threshold, scores = 0.5, {}
    for part in ("val", "test"):
        own = cohort.select(getattr(split, part))
        maps = predict(program, params, stats, own.images)
        report = metrics.evaluate(
            maps,
            own.masks,
            own.patient_ids,
            kind="probabilities",
            exact=maps.size <= EXACT_PIXELS,
        )
        if part == "val":
            threshold = report["best_threshold"]
        sums = metrics.ImageSums.of(
            maps.reshape(len(own), -1), own.masks.reshape(len(own), -1), threshold
        )
        at_best = sums.report(own.patient_ids)
        scores[part] = report | {f"{name}_at_best": at_best[name] for name in THRESHOLDED}
        if part == "test":
            volumes = sums.by_patient(own.patient_ids).hard_dice()
            dice = dict(zip(own.patients, volumes.tolist(), strict=True))
            _draw(own, maps, dice, threshold, folder)
            scores["test_patients"] = dice
    return {"threshold": threshold, **scores}


def _draw(cohort, maps, dice, threshold, folder: RunFolder) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        # A machine that only trains needs no pictures.
        return
    from fp4jax.analysis.predictions import picture

    picture(cohort, maps, dice, threshold, folder.path / "predictions.png", folder.path.name)
