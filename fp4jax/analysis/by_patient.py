"""The test patients of finished runs as data: a row per run and patient."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fp4jax.extras import Extra
from fp4jax.metrics import Histogram

if TYPE_CHECKING:
    import pandas as pd

    from fp4jax.analysis.results import RunResult

_NAN = float("nan")
#: Columns with a metric.
METRICS = ("auprc", "f2", "recall", "precision", "dice", "missed")


def patient_table(runs: "Iterable[RunResult]") -> "pd.DataFrame":
    """A row per run and test patient, for :func:`fp4jax.analysis.stats.compare_patients`.

    Columns: run, arch, scale, label, split, seed, patient; ``lesion``, whether the patient has one;
    ``pixels`` of it (or voxels); of the patient's pixels together, from its histogram (of volumes:
    of all regions together),

    - ``auprc``, average precision;
    - ``f2`` = 5 tp / (5 tp + 4 fn + fp), ``recall``, ``precision`` of p > threshold, the threshold
      that has the best F2 on the run's validation patients; precision without such pixels is NaN;
    - ``missed``: 1 if no pixel of the lesion is found, else 0; lower is better;

    all NaN without a lesion; and ``dice``, of the volume (of volumes the mean over their regions)
    at that threshold, see :class:`fp4jax.analysis.results.RunResult`. Runs with other split seeds
    than the first are on the split ``NAME@SEED``, since other patients are in it. Runs that kept no
    scores, or have NaN among them, have no rows.

    Args:
        runs: finished, at most one of each label, arch, scale, split (and its seed) and seed.
    """
    with Extra("study"):
        import pandas as pd

    rows: list[dict[str, Any]] = []
    first: int | None = None
    for run in runs:
        config = run.config
        first = config.split_seed if first is None else first
        other = "" if config.split_seed == first else f"@{config.split_seed}"
        keys = {"run": run.path.name, "arch": config.arch, "scale": config.scale}
        keys |= {"label": run.label, "split": config.split + other, "seed": config.seed}
        dice = run.summary.get("test_patients", {})
        for patient, histogram in (patient_scores(run) or {}).items():
            scores = pixel_scores(histogram, run.summary["threshold"])
            rows.append({**keys, "patient": patient, **scores, "dice": dice.get(patient, _NAN)})
    keys = ["run", "arch", "scale", "label", "split", "seed", "patient", "lesion", "pixels"]
    return pd.DataFrame(rows, columns=[*keys, *METRICS])


def pixel_scores(histogram: Histogram, threshold: float) -> dict[str, Any]:
    """``lesion``, ``pixels`` and metrics of a patient's pixels, see :func:`patient_table`.

    Example:
        >>> import jax.numpy as jnp
        >>> logits, mask = jnp.array([[3.0, 1.0, -1.0, -3.0]]), jnp.array([[1, 0, 1, 0]])
        >>> found = pixel_scores(Histogram.zeros(256).add(logits, mask), 0.5)
        >>> found["recall"], found["precision"], round(found["f2"], 6), found["missed"]
        (0.5, 0.5, 0.5, 0.0)
    """
    positives = float(np.asarray(histogram.counts[1], np.float64).sum())
    if not positives:
        return {"lesion": False, "pixels": 0} | dict.fromkeys(METRICS, _NAN)
    above, hits = histogram.above(threshold)
    return {
        "lesion": True,
        "pixels": int(positives),
        "auprc": histogram.average_precision().value,
        # 5 tp + 4 fn + fp, by what is above the threshold and what is positive.
        "f2": 5 * hits / (4 * positives + above),
        "recall": hits / positives,
        "precision": hits / above if above else _NAN,
        "missed": float(hits == 0),
    }


def patient_scores(run: "RunResult") -> dict[str, Histogram] | None:
    """Of the test patients; None if the run kept none, or has scores that are NaN."""
    if not (run.path / "test_scores.npz").exists():
        return None
    scores = run.scores("test")
    return None if any(int(h.invalid) for h in scores.values()) else scores or None
