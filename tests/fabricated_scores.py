"""Studies of patients with known effects, as they are collected; nothing was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fp4jax.analysis.claims import Collected
from fp4jax.analysis.claims.collected import PATIENT_COLUMNS, RUN_COLUMNS
from fp4jax.analysis.claims.inside import failure_modes

STATED = ("baseline", "full", "forward_only", "2d+rht+sr")


def study(
    seed: int = 0,
    *,
    loss: Mapping[tuple[str, str], float] | None = None,
    gaps: Mapping[str, float] | None = None,
    labels: Sequence[str] = STATED,
    archs: Sequence[str] = ("cnn", "vit", "swin"),
    scales: Sequence[str] = ("500k",),
    patients: int = 11,
    seeds: Sequence[int] = (2026,),
) -> Collected:
    """Five folds; a patient's score differs by patient, by architecture, by network and at random.

    Args:
        seed: of the random numbers.
        loss: (arch, label) -> what the label costs every patient there.
        gaps: arch or scale -> what it costs every patient.
        labels: QAT recipes.
        archs, scales, seeds: of the runs.
        patients: of each fold.
    """
    loss, gaps = loss or {}, gaps or {}
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for fold in range(5):
        base = generator.normal(0.7, 0.12, patients)
        for arch in archs:
            of_arch = generator.normal(0, 0.05, patients)
            for scale in scales:
                for label in labels:
                    for of_run in seeds:
                        noise = generator.normal(0, 0.03, patients)
                        score = base + of_arch + generator.normal(0, 0.005) + noise
                        score -= loss.get((arch, label), 0) + gaps.get(arch, 0) + gaps.get(scale, 0)
                        names = {"arch": arch, "scale": scale, "recipe": label, "method": "qat"}
                        names |= {"split": f"fold{fold}", "seed": of_run}
                        rows += [
                            names
                            | {"patient": f"p{fold}_{i}", "pixels": 100, "auprc": score[i]}
                            | {"f2": score[i] - 0.05, "recall": score[i] + 0.05}
                            | {"dice": score[i] - 0.1, "missed": 0.0}
                            for i in range(patients)
                        ]
    table = pd.DataFrame(rows)
    keys = ["arch", "scale", "recipe", "method", "split", "seed"]
    runs = table.drop_duplicates(keys)[keys].reset_index(drop=True)
    settings = {"image_size": 64, "epochs": 12, "batch_size": 16, "schedule": "onecycle"}
    settings |= {"folds": 5, "split_seed": 2026, "train_seconds": 60.0, "revision": "abc"}
    runs = runs.assign(run=runs.index.astype(str), jax="0.10.2", data="d", **settings)
    return Collected(
        runs.reindex(columns=RUN_COLUMNS), table.reindex(columns=PATIENT_COLUMNS), failure_modes([])
    )


def without(whole: Collected, **values: Any) -> Collected:
    """A study that lacks the runs with these values of columns."""

    def left(frame: Any) -> Any:
        gone = np.all([frame[name] == value for name, value in values.items()], axis=0)
        return frame[~gone].reset_index(drop=True)

    return Collected(left(whole.runs), left(whole.patients), whole.inside)
