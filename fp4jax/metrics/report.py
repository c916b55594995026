"""All metrics of a whole split at once, in one pass over its pixels."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import ArrayLike
from fp4jax.metrics.calibration import CHUNK, CLIP, Calibration
from fp4jax.metrics.histogram import Histogram
from fp4jax.metrics.overlap import ImageSums
from fp4jax.metrics.ranking import Ranking, check_binary
from fp4jax.metrics.streaming import from_histogram
from fp4jax.metrics.sweep import SweepCounts

KINDS = ("logits", "probabilities")

_add = jax.jit(Histogram.add, donate_argnums=0)


def evaluate(
    scores: ArrayLike,
    masks: ArrayLike,
    patient_ids: Sequence[str] | np.ndarray | None = None,
    *,
    kind: str = "logits",
    threshold: float = 0.5,
    exact: bool = True,
    ref_batch_size: int | None = None,
) -> dict[str, float]:
    """All metrics of a split, by name.

    ========================  =====================================================================
    auprc                     average precision over all pixels (scikit-learn's), the primary metric
    auc                       area under the ROC curve over all pixels
    recall precision          soft: pixels weigh by p; over all pixels of the split
      f2_score iou            (formulas: ``fp4jax.metrics.overlap``)
    dice                      soft, mean over images; images with an empty mask count about 0
    dice_positive             soft, mean over the images whose mask is not empty
    dice_global               soft, over all pixels of the split
    dice_patient              soft, of each patient's volume, mean over patients
    hard_*                    the same of p >= threshold; an image whose mask and prediction are
                              both empty has hard Dice 1
    tp fp fn tn fpr fnr       pixels at p >= threshold, and the rates of false ones
    ece                       expected calibration error, 15 bins (lo, hi], all pixels
    logit_mean logit_std      of log(p / (1 - p)); mean entropy of a pixel in nats
      prob_entropy
    best_threshold            of 0.05, 0.10 ... 0.95, by F2 of p > threshold, 0.5 if that is 0 at
      best_f2_score           all of them; that F2
    images positive_images    counts; share of positive pixels
      patients
      positive_share
    dice_ref                  with ``ref_batch_size``: mean over batches of their mean soft Dice
    ========================  =====================================================================

    Without a positive pixel ``auprc``, ``auc`` and ``dice_positive`` are NaN and recall, precision,
    F2 and IoU are 0. p is float32, and is clipped to [1e-7, 1 - 1e-7] for the metrics of ranking,
    calibration, logits and entropy.

    Args:
        scores: (n, *space) or (n, *space, 1), any float dtype.
        masks: (n, *space), 0 and 1 of any dtype.
        patient_ids: (n,); without it there are no metrics per patient.
        kind: "logits" or "probabilities".
        threshold: of the hard metrics.
        exact: sort all pixels for ``auprc`` and ``auc``. If False, they and ``ece`` come from a
            histogram and ``auprc_low``, ``auprc_high`` and so on bound the exact values.
        ref_batch_size: of the reference's loader.

    Raises:
        ValueError: if shapes or numbers of images do not fit, the masks are not 0 and 1, or a score
            is NaN or not a probability.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[[2.0, -1.0], [-3.0, 0.5]]])
        >>> report = evaluate(logits, np.array([[[1, 0], [0, 1]]]), ["case_7"])
        >>> report["auprc"], report["hard_dice_patient"], report["tp"]
        (1.0, 1.0, 2.0)
    """
    scores, masks = _fitting(scores, masks, kind, threshold)
    overlap, calibration, sweep = [], Calibration(), SweepCounts()
    ranking = _Scores(masks) if exact else None
    histogram = Histogram.zeros()
    for p, y in _chunks(scores, masks, kind):
        overlap.append(ImageSums.of(p, y, threshold))
        np.clip(p, np.float32(CLIP), np.float32(1 - CLIP), out=p)
        calibration.add(p, y)
        sweep.add(p, y)
        if ranking is None:
            histogram = _add(histogram, jnp.asarray(np.log(p / (1 - p))), jnp.asarray(y))
        else:
            ranking.add(p, y)
    report = ImageSums.concatenate(overlap).report(patient_ids, ref_batch_size=ref_batch_size)
    if ranking is None:
        report |= from_histogram(histogram)
    else:
        ranked = ranking.ranking()
        report |= {"auprc": ranked.average_precision(), "auc": ranked.roc_auc()}
    report |= calibration.report()
    best = sweep.sweep()
    return report | {"best_threshold": best.best_threshold, "best_f2_score": best.best_f2}


def patient_dice(
    scores: ArrayLike,
    masks: ArrayLike,
    patient_ids: Sequence[str] | np.ndarray,
    threshold: float = 0.5,
    *,
    kind: str = "probabilities",
) -> dict[str, float]:
    """Hard Dice of each patient's volume, by patient in sorted order.

    Their mean is ``hard_dice_patient`` of :func:`evaluate`, which see for the arguments.

    Example:
        >>> import numpy as np
        >>> p, masks = np.array([[0.9, 0.2], [0.8, 0.1]]), np.array([[1, 0], [0, 0]])
        >>> patient_dice(p, masks, ["a", "b"])
        {'a': 1.0, 'b': 0.0}
    """
    scores, masks = _fitting(scores, masks, kind, threshold)
    parts = [ImageSums.of(p, y, threshold) for p, y in _chunks(scores, masks, kind)]
    dice = ImageSums.concatenate(parts).by_patient(patient_ids).hard_dice()
    return dict(zip(np.unique(np.asarray(patient_ids)).tolist(), dice.tolist(), strict=True))


def probabilities(scores: ArrayLike, kind: str = "logits") -> np.ndarray:
    """float32 probabilities of logits, or of what is probabilities already.

    Raises:
        ValueError: if a score is NaN, or a probability lies outside [0, 1].
    """
    z = np.asarray(scores).astype(np.float32)
    bad = np.isnan(z) if kind == "logits" else ~((z >= 0) & (z <= 1))
    if bad.any():
        what = "NaN" if kind == "logits" else "no probabilities"
        raise ValueError(
            f"{np.count_nonzero(bad)} scores are {what}, the first {z[bad][0]}; the model has "
            "diverged, or kind is wrong."
        )
    if kind == "probabilities":
        return z
    # exp of -|z| alone, which cannot overflow.
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, np.float32(1), e) / (1 + e)


def _fitting(scores, masks, kind: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores and masks as arrays of one shape; a ValueError if they or the options are wrong."""
    scores, masks = np.asarray(scores), np.asarray(masks)
    if scores.ndim == masks.ndim + 1 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    if scores.shape != masks.shape or masks.ndim < 2 or not masks.size:
        raise ValueError(
            f"scores of shape {scores.shape} do not fit masks of shape {masks.shape}; give scores "
            "(n, *space) or (n, *space, 1) and masks (n, *space), with at least one pixel."
        )
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join(KINDS)}.")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold!r}; give a probability between 0 and 1.")
    return scores, masks


def _chunks(scores, masks, kind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images, pixels) probabilities and boolean masks of a few images at a time."""
    pixels = masks[0].size
    size = max(1, CHUNK // pixels)
    for start in range(0, len(masks), size):
        y = masks[start : start + size].reshape(-1, pixels)
        check_binary(y)
        yield (
            probabilities(scores[start : start + size], kind).reshape(-1, pixels),
            y.astype(bool, copy=False),
        )


class _Scores:
    """Probabilities of all positives and of all negatives, collected chunk by chunk."""

    def __init__(self, masks: np.ndarray):
        positives = int(np.count_nonzero(masks))
        self.parts = [
            np.empty(masks.size - positives, np.float32),
            np.empty(positives, np.float32),
        ]
        self.used = [0, 0]

    def add(self, p: np.ndarray, y: np.ndarray) -> None:
        for i, chosen in enumerate((p[~y], p[y])):
            self.parts[i][self.used[i] : self.used[i] + len(chosen)] = chosen
            self.used[i] += len(chosen)

    def ranking(self) -> Ranking:
        return Ranking.sort(positive=self.parts[1], negative=self.parts[0])
