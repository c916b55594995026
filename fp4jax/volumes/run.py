"""A run on volumes from start to end: training, evaluation of the best epoch, summary."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import jax

from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.console import Listener, progress_bar
from fp4jax.train.folder import RunFolder
from fp4jax.volumes.cases import Data, Source, open_data
from fp4jax.volumes.config import VolumeRun
from fp4jax.volumes.evaluation import draw, evaluate
from fp4jax.volumes.fit import Fit
from fp4jax.volumes.inference import Segmenter
from fp4jax.volumes.program import parameters, program_of

#: of summary.json
SCHEMA = 1
PICTURES = "pictures"


def train(
    config: VolumeRun,
    source: Source,
    out: str | os.PathLike,
    *,
    pictures: bool = False,
    listener: Listener | None = None,
) -> RunFolder:
    """Trains a run on a folder of NIfTI cases and evaluates it; returns the run's folder.

    A finished run is not repeated, an unfinished one goes on from its last checkpoint. The folder
    gets ``config.json``, ``metrics.jsonl`` (an epoch a line), ``checkpoints/``, ``summary.json``,
    ``test_cases.csv`` and ``predictions/CASE.nii.gz``; see :mod:`fp4jax.volumes.evaluation`.

    Args:
        config: of the run.
        source: the folder of the cases.
        out: the run's folder lies in here, named by its id.
        pictures: draw the test cases too, into ``pictures/``. Pictures of patients may not be
            passed on freely.
        listener: is told about steps and epochs; default: a progress bar on terminals.

    Raises:
        ValueError: cases that cannot be used, or a folder that holds another run.
        fp4jax.train.DivergedError: a loss that is not finite.
        OSError: a disk that is full or read-only.
    """
    config = config.resolved()
    data = open_data(config, source)
    folder = RunFolder(Path(out) / config.id(data.digest))
    identity = config.identity(data.digest)
    if folder.summary() is not None and (not pictures or (folder.path / PICTURES).exists()):
        folder.open(identity)
        return folder
    # What does not fit fails before there is a folder.
    program = program_of(config, len(data.modalities), len(data.regions))
    folder.open(identity)
    checkpoints = Checkpoints(folder.checkpoints, asynchronous=False)
    try:
        done = max(checkpoints.epochs(), default=0)
        name = f"{config.arch} {config.scale} {config.recipe}"
        bar = progress_bar(name, config.epochs * config.steps, done * config.steps)
        with contextlib.nullcontext(listener) if listener else bar as told:
            fit = Fit(config, program, data, folder, checkpoints, told)
            params, stats = fit()
    finally:
        checkpoints.close()
    segmenter = Segmenter(program, params, stats, data.modalities, data.regions)
    if folder.summary() is None:
        _summarize(config, segmenter, data, fit, folder)
    if pictures:
        draw(segmenter, data, folder.path / PICTURES)
    return folder


def _summarize(
    config: VolumeRun, segmenter: Segmenter, data: Data, fit: Fit, folder: RunFolder
) -> None:
    """Evaluates the best epoch and writes what a finished run has."""
    progress = fit.progress
    scores = evaluate(segmenter, data, folder.path)
    record: dict[str, Any] = dataclasses.asdict(config)
    record["weights"] = None if config.weights is None else str(config.weights)
    folder.write_summary(
        {
            "schema": SCHEMA,
            **record,
            "parameters": parameters(segmenter.params),
            "modalities": data.modalities,
            "regions": data.regions,
            "cases": {part: len(data.places(part)) for part in ("train", "val", "test")},
            "best_epoch": progress.best_epoch,
            "val_dice": progress.best_dice,
            "train_seconds": round(progress.seconds, 3),
            "device": jax.devices()[0].device_kind,
            "test": scores,
        }
    )
