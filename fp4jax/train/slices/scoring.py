"""Scores of slices: in validation after an epoch, and of the best epoch on whole patients."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fp4jax import metrics
from fp4jax.core.typing import Array
from fp4jax.data import Cohort
from fp4jax.train import patients
from fp4jax.train.threshold import chosen_threshold

if TYPE_CHECKING:
    from fp4jax.train.model import Model

#: Of the validation slices, after every epoch.
VALIDATION = (
    "loss",
    "auprc",
    "recall",
    "precision",
    "f2_score",
    "dice",
    "hard_recall",
    "hard_f2_score",
    "hard_dice_patient",
    "ece",
)
#: Reported at the validation's best threshold too.
THRESHOLDED = tuple(
    f"hard_{name}"
    for name in ("recall", "precision", "f2_score", "iou", "dice", "dice_positive", "dice_patient")
)
# Above this many pixels AUPRC comes from a histogram, with bounds.
_EXACT_PIXELS = 64_000_000
# Slices whose metrics are added up at a time; no bit depends on it but through the sums' order.
_CHUNK = 16


def validate(model: "Model", cohort: Cohort) -> dict[str, float]:
    """``VALIDATION`` of a cohort, streamed: no map is kept."""
    sums, values = metrics.zeros(len(cohort)), []
    loss = model.program.loss
    for start in range(0, len(cohort), _CHUNK):
        part = slice(start, start + _CHUNK)
        count = len(cohort.images[part])
        logits = np.resize(_logits(model, cohort.images[part]), (_CHUNK, *cohort.masks.shape[1:]))
        masks = np.resize(cohort.masks[part], logits.shape)
        weights = (np.arange(_CHUNK) < count).astype(np.float32)
        sums, loss_of = _added(sums, logits, masks, weights, loss)
        values.append(np.asarray(loss_of, np.float64)[:count])
    report = metrics.summarize(sums, cohort.patient_ids)
    report["loss"] = float(np.concatenate(values).mean())
    return {name: report[name] for name in VALIDATION}


@functools.partial(jax.jit, static_argnames="loss", donate_argnums=0)
def _added(
    sums: metrics.Accumulated, logits: Array, masks: Array, weights: Array, loss: Any
) -> tuple[metrics.Accumulated, Array]:
    """The sums with some slices, and the loss of each slice as if it were alone."""
    of_each = jax.vmap(lambda z, y: loss(z[None], y[None]))(logits, masks)
    return metrics.accumulate(sums, logits, masks, weights), of_each


def predict(model: "Model", images: np.ndarray) -> np.ndarray:
    """Probabilities (n, h, w) of images as stored, of each as if it were alone."""
    return metrics.probabilities(_logits(model, images))


def evaluate(model: "Model", parts: Mapping[str, Cohort], folder: Path) -> dict[str, Any]:
    """All metrics of the validation and the test patients.

    Beside them the folder gets what curves, pictures and resampling need, see
    :mod:`fp4jax.train.patients`.

    Hard metrics are at the threshold 0.5; ``hard_*_at_best`` at ``threshold``, the one that has
    the best F2 on the validation patients, 0.5 if they have no lesion or none of it is found at
    any. ``test_patients`` is the volumetric Dice there.
    """
    threshold, scores = 0.5, {}
    for part, own in parts.items():
        maps = predict(model, own.images)
        if part == "val":
            threshold = chosen_threshold(metrics.threshold_sweep(maps, own.masks), folder.name)
        scores[part], dice = _report(own, maps, threshold)
        if part == "test":
            scores["test_patients"] = dice
        if not model.writes:
            continue
        patients.write_scores(folder / f"{part}_scores.npz", patients.histograms(own, maps))
        if part == "test":
            patients.write_examples(folder / "examples.npz", patients.examples(own, maps))
    return {"threshold": threshold, **scores}


def score(model: "Model", cohort: Cohort, threshold: float) -> dict[str, float]:
    """All metrics of a cohort at 0.5, and at a threshold."""
    return _report(cohort, predict(model, cohort.images), threshold)[0]


def _report(
    cohort: Cohort, maps: np.ndarray, threshold: float
) -> tuple[dict[str, float], dict[str, float]]:
    """All metrics, and the volumetric Dice of each patient at ``threshold``."""
    report = metrics.evaluate(
        maps,
        cohort.masks,
        cohort.patient_ids,
        kind="probabilities",
        exact=maps.size <= _EXACT_PIXELS,
    )
    sums = metrics.ImageSums.of(
        maps.reshape(len(cohort), -1), cohort.masks.reshape(len(cohort), -1), threshold
    )
    at_best = sums.report(cohort.patient_ids)
    volumes = sums.by_patient(cohort.patient_ids).hard_dice()
    dice = dict(zip(cohort.patients, volumes.tolist(), strict=True))
    return report | {f"{name}_at_best": at_best[name] for name in THRESHOLDED}, dice


def _logits(model: "Model", images: np.ndarray) -> np.ndarray:
    return model.logits(images)[..., 0]
