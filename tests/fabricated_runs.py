"""Finished runs that no training made: folders as a run leaves them, from random maps."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data import Cohort, Split
from fp4jax.train import RunConfig, RunFolder, SliceData, Slices, Volumes
from fp4jax.train.config import id_of
from fp4jax.train.patients import examples, histograms, write_examples, write_scores
from fp4jax.train.slices.scoring import _report

DIGEST = "0" * 64
SPLIT = Split(("a", "b"), ("c",), ("patient_00", "patient_01", "patient_02"))
ENVIRONMENT = {
    "fp4jax": "0.2.0",
    "numerics": 1,
    "packages": {"jax": "0.9.0", "numpy": "2.3.0"},
    "python": "3.13.1",
    "source": {"revision": "ab" * 20, "dirty": False},
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "processor": "Some Processor <1>",
    "host": "somewhere",
    "date": "2026-11-28T20:00:00+00:00",
    "command": ["/home/somebody/experiments/study.py", "demo"],
}


def cohort(patients: int = 3, size: int = 32) -> Cohort:
    """Bright ellipses on noise; two slices a patient, the first without a lesion."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size] / size
    images, masks, ids, places = [], [], [], []
    for patient in range(patients):
        for place in range(2):
            cy, cx = rng.uniform(0.3, 0.7, 2)
            radius = 0.1 + 0.05 * patient
            mask = ((y - cy) ** 2 + (x - cx) ** 2 < radius**2) & (place == 1)
            image = 60 + 100 * mask + rng.normal(0, 15, (size, size))
            images.append(np.repeat(image[..., None], 3, -1).clip(0, 255).astype(np.uint8))
            masks.append(mask.astype(np.uint8))
            ids.append(f"patient_{patient:02d}")
            places.append(place)
    return Cohort(
        np.stack(images),
        np.stack(masks),
        np.array(ids),
        np.array(places, np.int32),
        name="fabricated",
        channels=("pre", "flair", "post"),
    )


def run(root: Path, own: Cohort, quality: float = 2.0, epochs: int = 6, **options: Any) -> Path:
    """Writes one run; its AUPRC rises with ``quality``. ``options`` are those of RunConfig."""
    task = Slices("phantom", image_size=own.images.shape[1])
    config = RunConfig(**{"data": task, "epochs": epochs, **options})
    identity = {**config.identity(SliceData(own), SPLIT), "digest": DIGEST}
    folder = RunFolder(root / id_of(config, identity))
    folder.create(identity, dataclasses.asdict(SPLIT), ENVIRONMENT)
    rng = np.random.default_rng([config.seed, len(config.recipe_name), len(config.method)])
    noise = rng.normal(0, 1, own.masks.shape)
    blob = np.float32(4 * (own.masks - 0.75) + noise * 6 / (1 + quality))
    maps = 1 / (1 + np.exp(-np.clip(blob, -15, 15)))
    reports = {}
    for part in ("val", "test"):
        report, dice = _report(own, maps, 0.3)
        reports[part] = report
        write_scores(folder.path / f"{part}_scores.npz", histograms(own, maps))
    write_examples(folder.path / "examples.npz", examples(own, maps))
    for epoch in range(1, epochs + 1) if config.method != "ptq" else ():
        part = 1 - 0.6 * epoch / epochs + 0.05 * rng.normal()
        folder.append({"epoch": epoch, **_epoch(config, part, epoch)})
    if isinstance(config.data, Volumes):
        dice = np.clip(0.8 + 0.1 * rng.normal(size=3), 0, 1).tolist()
        scores = {"dice": dice, "hd95_mm": (20 * (1 - np.array(dice))).tolist()}
        names = ("whole_tumour", "tumour_core", "mean")
        reports["test_regions"] = {
            name: {metric: values[i] for metric, values in scores.items()}
            for i, name in enumerate(names)
        }
        dice = dict.fromkeys(own.patients, dice[-1])
    folder.write_summary(
        {
            "schema": 3,
            **config.resolved().to_json(),
            "recipe": config.recipe_name,
            "best_epoch": epochs,
            "epochs_run": epochs,
            "ended": "last epoch",
            "train_seconds": 1.5,
            "lanes": 1,
            "device": "cpu",
            "threshold": 0.3,
            **reports,
            "test_patients": dice,
        }
    )
    return folder.path


def _epoch(config: RunConfig, part: float, epoch: int) -> dict[str, float]:
    """A record as the trainer of the run's task writes it; losses fall with ``part``."""
    scores = {"val_loss": part + 0.1, "val_auprc": 1 - part, "val_hard_f2_score": 0.9 - part}
    if isinstance(config.data, Volumes):
        scores = {"val_dice": 1 - part, "val_dice_whole_tumour": 1 - part}
        scores["val_dice_tumour_core"] = 0.9 - part
    rates = {"grad_norm": part**2, "learning_rate": 1e-3 * 0.8**epoch}
    return {"train_loss": part, **scores, **rates}


def study(
    root: Path,
    *,
    archs=("cnn", "swin"),
    scales=("500k",),
    labels=("baseline", "full", "2d+rht+sr"),
    splits=("holdout",),
    seeds=(1, 2, 3),
    **options: Any,
) -> Path:
    """A run of everything; recipes are a little worse than the baseline, in each seed another."""
    data = cohort()
    for arch in archs:
        for scale in scales:
            for place, label in enumerate(labels):
                method, _, recipe = label.rpartition(" ")
                for split in splits:
                    for seed in seeds:
                        quality = 2.4 - 0.12 * place + 0.05 * (hash_of(split) + seed) % 0.4
                        run(
                            root,
                            data,
                            quality,
                            arch=arch,
                            scale=scale,
                            recipe=recipe,
                            method=method or "qat",
                            split=split,
                            seed=seed,
                            **options,
                        )
    return root


def hash_of(split: str) -> int:
    return sum(map(ord, split))


def without_positives(data: Cohort) -> Cohort:
    return dataclasses.replace(data, masks=np.zeros_like(data.masks))
