"""Finished runs that no training made: folders as a run leaves them, from random maps."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data import Cohort
from fp4jax.train.config import RunConfig
from fp4jax.train.evaluation import _report
from fp4jax.train.folder import RunFolder
from fp4jax.train.patients import write_examples, write_scores

DIGEST = "0" * 64


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


def run(root: Path, data: Cohort, quality: float = 2.0, epochs: int = 6, **options: Any) -> Path:
    """Writes one run; its AUPRC rises with ``quality``. ``options`` are those of RunConfig."""
    config = RunConfig(image_size=data.images.shape[1], data="phantom", epochs=epochs, **options)
    folder = RunFolder(root / config.id(DIGEST))
    folder.open(config.identity(DIGEST))
    rng = np.random.default_rng([config.seed, len(config.recipe), len(config.method)])
    noise = rng.normal(0, 1, data.masks.shape)
    blob = np.float32(4 * (data.masks - 0.75) + noise * 6 / (1 + quality))
    maps = 1 / (1 + np.exp(-np.clip(blob, -15, 15)))
    reports = {}
    for part in ("val", "test"):
        report, dice = _report(data, maps, 0.3)
        reports[part] = report
        write_scores(folder.path / f"{part}_scores.npz", data, maps)
    write_examples(folder.path / "examples.npz", data, maps)
    for epoch in range(1, epochs + 1) if config.method != "ptq" else ():
        part = 1 - 0.6 * epoch / epochs + 0.05 * rng.normal()
        folder.append(
            {"epoch": epoch, "train_loss": part, "val_loss": part + 0.1}
            | {"val_auprc": 1 - part, "val_hard_f2_score": 0.9 - part}
            | {"grad_norm": part**2, "learning_rate": 1e-3 * 0.8**epoch}
        )
    folder.write_summary(
        {
            "schema": 2,
            **dataclasses.asdict(config.resolved()),
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


def study(
    root: Path,
    *,
    archs=("cnn", "swin"),
    scales=("500k",),
    labels=("baseline", "full", "2d+rht+sr"),
    splits=("holdout",),
    seeds=(1, 2, 3),
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
                        )
    return root


def hash_of(split: str) -> int:
    return sum(map(ord, split))


def without_positives(data: Cohort) -> Cohort:
    return dataclasses.replace(data, masks=np.zeros_like(data.masks))
