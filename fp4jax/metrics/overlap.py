"""Recall, precision, F2, IoU and Dice from five sums per image.

"Soft" weighs pixels by their probability p, "hard" by p >= threshold; y is the mask. With
TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y and e = 1e-6:

    recall R = TP / (TP + FN + e)        precision P = TP / (TP + FP + e)
    F2 = 5 P R / (4 P + R + e)           IoU = TP / (TP + FP + FN + e)
    Dice (soft) = (2 TP + e) / (sum p + sum y + e)
    Dice (hard) = 2 TP / (sum p + sum y), and 1 if mask and prediction are both empty
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class ImageSums:
    """Sums over the pixels of each image, float64 (n,); images may differ in size.

    Example:
        >>> import numpy as np
        >>> p, y = np.array([[0.5, 0.0, 1.0, 0.0]]), np.array([[1, 0, 1, 0]])
        >>> sums = ImageSums.of(p, y, threshold=0.5)
        >>> report = sums.report()
        >>> print(f"{report['recall']:.2f} {report['hard_recall']:.2f}")
        0.75 1.00
    """

    p: np.ndarray
    py: np.ndarray
    y: np.ndarray
    hard: np.ndarray
    hard_y: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray, threshold: float) -> "ImageSums":
        """Sums of (n, pixels) probabilities and masks."""
        y = np.asarray(y).astype(bool)
        hard = p >= threshold
        return cls(
            p=p.sum(1, dtype=np.float64),
            py=np.where(y, p, p.dtype.type(0)).sum(1, dtype=np.float64),
            y=np.count_nonzero(y, axis=1).astype(np.float64),
            hard=np.count_nonzero(hard, axis=1).astype(np.float64),
            hard_y=np.count_nonzero(hard & y, axis=1).astype(np.float64),
            pixels=np.full(len(p), p.shape[1], np.float64),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["ImageSums"]) -> "ImageSums":
        """The sums of all images in one."""
        columns = zip(*(dataclasses.astuple(part) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.p)

    def by_patient(self, patient_ids: Sequence[str] | np.ndarray) -> "ImageSums":
        """The sums of each patient's volume; patients in sorted order.

        Raises:
            ValueError: if there is not one id per image.
        """
        ids = np.asarray(patient_ids)
        if ids.shape != (len(self),):
            raise ValueError(
                f"patient_ids has shape {ids.shape} for {len(self)} images; give one id per image."
            )
        patients, group = np.unique(ids, return_inverse=True)
        return ImageSums(
            *(np.bincount(group, column, len(patients)) for column in dataclasses.astuple(self))
        )

    def soft_dice(self) -> np.ndarray:
        """Soft Dice of each image; about 0 where the mask is empty, unless sum p is below 1e-6."""
        return (2 * self.py + EPS) / (self.p + self.y + EPS)

    def hard_dice(self) -> np.ndarray:
        """Hard Dice of each image."""
        total = self.hard + self.y
        return np.where(total == 0, 1.0, 2 * self.hard_y / np.where(total == 0, 1, total))

    def report(
        self,
        patient_ids: Sequence[str] | np.ndarray | None = None,
        *,
        ref_batch_size: int | None = None,
    ) -> dict[str, float]:
        """All overlap metrics by name; see :func:`fp4jax.metrics.evaluate` for the names."""
        soft = _ratios(self.py.sum(), self.p.sum(), self.y.sum())
        hard = _ratios(self.hard_y.sum(), self.hard.sum(), self.y.sum())
        volume = ImageSums(*(c.sum(keepdims=True) for c in dataclasses.astuple(self)))
        tp, fp, fn = (
            volume.hard_y[0],
            (volume.hard - volume.hard_y)[0],
            (volume.y - volume.hard_y)[0],
        )
        tn = volume.pixels[0] - tp - fp - fn
        positive = self.y > 0
        report = {
            **soft,
            "dice": mean(self.soft_dice()),
            "dice_positive": mean(self.soft_dice()[positive]),
            "dice_global": mean(volume.soft_dice()),
            **{f"hard_{name}": value for name, value in hard.items()},
            "hard_dice": mean(self.hard_dice()),
            "hard_dice_positive": mean(self.hard_dice()[positive]),
            "hard_dice_global": mean(volume.hard_dice()),
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "tn": tn,
            "fpr": fp / (fp + tn + EPS),
            "fnr": fn / (fn + tp + EPS),
            "images": len(self),
            "positive_images": np.count_nonzero(positive),
            "positive_share": self.y.sum() / max(self.pixels.sum(), 1),
        }
        if patient_ids is not None:
            patients = self.by_patient(patient_ids)
            report["dice_patient"] = mean(patients.soft_dice())
            report["hard_dice_patient"] = mean(patients.hard_dice())
            report["patients"] = len(patients)
        if ref_batch_size is not None:
            report["dice_ref"] = mean_of_batch_means(self.soft_dice(), ref_batch_size)
        return {name: float(value) for name, value in report.items()}


def mean(values: np.ndarray) -> float:
    """The mean; NaN without a warning if there are no values."""
    return float(np.mean(values)) if len(values) else float("nan")


def mean_of_batch_means(values: np.ndarray, batch_size: int) -> float:
    """The reference's average over a split: batches weigh the same, the last short one too.

    Example:
        >>> import numpy as np
        >>> mean_of_batch_means(np.array([0.0, 0.0, 0.0, 1.0]), batch_size=3)
        0.5
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; give a number of images >= 1.")
    starts = range(0, len(values), batch_size)
    return mean(np.array([np.mean(values[i : i + batch_size]) for i in starts]))


def _ratios(tp: float, predicted: float, true: float) -> dict[str, float]:
    recall, precision = tp / (true + EPS), tp / (predicted + EPS)
    return {
        "recall": recall,
        "precision": precision,
        "f2_score": f2(precision, recall, EPS),
        "iou": tp / (predicted + true - tp + EPS),
    }


def f2(precision, recall, eps: float):
    """F-measure that weighs recall twice as much as precision."""
    return 5 * precision * recall / (4 * precision + recall + eps)
