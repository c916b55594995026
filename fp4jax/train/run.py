"""Runs from start to end: folder, training, evaluation of the best epoch, summary."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fp4jax.data import Cohort, Split, fingerprint
from fp4jax.train.config import RunConfig, from_json
from fp4jax.train.console import Listener, progress_bar
from fp4jax.train.evaluation import evaluate, restore
from fp4jax.train.folder import RunFolder
from fp4jax.train.loop import DivergedError, Fit, Run, places, steps_per_epoch
from fp4jax.train.parts import check_size, split_of
from fp4jax.train.program import Program

# of summary.json
SCHEMA = 2


@dataclasses.dataclass(frozen=True)
class _Member:
    """A run of a group, before it is trained."""

    config: RunConfig
    folder: RunFolder
    split: Split

    def steps(self, cohort: Cohort) -> int:
        """Of an epoch."""
        return steps_per_epoch(len(places(cohort, self.split.train)), self.config.batch_size)


def train(
    config: RunConfig,
    cohort: Cohort,
    out: Path,
    seeds: Sequence[int] | None = None,
    *,
    split: Split | None = None,
) -> list[RunFolder]:
    """Trains a run per seed and evaluates it; returns the folders, which have a summary each.

    Finished runs are not repeated, unfinished ones go on from their last checkpoint. All seeds
    share one compilation; on accelerators they are lanes of one ``vmap``. The methods ``qad`` and
    ``ptq`` train the baseline run first, if it is not there.

    Args:
        config: of the runs; ``seeds`` replaces its seed.
        cohort: the slices; its images must have ``config.image_size``.
        out: the runs' folders lie in here, named by their ids.
        seeds: default: the configuration's.
        split: that of the configuration, where it was made before: scikit-learn, which makes it,
            is not needed then.

    Raises:
        ValueError: images of another size, or a folder that holds another run.
        fp4jax.train.DivergedError: a loss that is not finite.
        OSError: a disk that is full or read-only.

    Example:
        >>> import tempfile
        >>> from fp4jax.data import phantom
        >>> cohort = phantom.load(patients=20, slices=4, image_size=16, cache=False)
        >>> small = {"model_options": {"stages": 2, "channels": 16}, "batch_size": 16}
        >>> run = RunConfig("phantom", 16, arch="cnn", epochs=1, augment=False, **small)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     (folder,) = train(run, cohort, Path(out))
        ...     folder.summary()["epochs_run"]
        1
    """
    seeds = list(dict.fromkeys(seeds or [config.seed]))
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    return train_together(configs, cohort, out, split=split)


def train_together(
    configs: Sequence[RunConfig],
    cohort: Cohort,
    out: Path,
    *,
    split: Split | None = None,
    listener: Listener | None = None,
) -> list[RunFolder]:
    """Like :func:`train`, for runs that differ in their seeds and splits alone.

    A ``listener`` is told about steps and epochs; default: a progress bar on terminals.

    Raises:
        ValueError: the runs differ in more, or take different numbers of steps on an accelerator.
    """
    shared = {_key(config) for config in configs}
    if len(shared) != 1:
        raise ValueError(
            f"{len(configs)} runs that differ in more than seed and split; train them apart."
        )
    check_size(configs[0], cohort)
    digest = fingerprint(cohort)["sha256"]
    members = [
        _Member(config, RunFolder(out / config.id(digest)), split or split_of(config, cohort))
        for config in configs
    ]
    for member in members:
        member.folder.open(member.config.identity(digest))
    # Which runs share a vmap follows from the command alone, not from what is left to do.
    together = jax.default_backend() != "cpu" and len(configs) > 1
    for group in [members] if together else [[member] for member in members]:
        if all(member.folder.summary() for member in group):
            continue
        teachers = None
        if group[0].config.method != "qat":
            baselines = [member.config.teacher() for member in group]
            teachers = train_together(baselines, cohort, out, split=split, listener=listener)
        if group[0].config.method == "ptq":
            for member, teacher in zip(group, teachers or (), strict=True):
                _quantize_after(member, teacher, cohort)
        else:
            _train_group(group, cohort, teachers, together, listener)
    return [member.folder for member in members]


def _key(config: RunConfig) -> str:
    """Runs with equal keys share their compiled steps, if their schedules do."""
    same = dataclasses.replace(config.resolved(), seed=0, split="holdout")
    return json.dumps(dataclasses.asdict(same), sort_keys=True)


@functools.lru_cache(maxsize=2)
def _program(key: str, channels: int, steps: int, lanes: int | None) -> Program:
    return Program(from_json(json.loads(key)), channels, steps, lanes)


def _program_of(config: RunConfig, cohort: Cohort, steps: int, lanes: int | None) -> Program:
    total = config.epochs * steps if config.schedule == "onecycle" else 0
    return _program(_key(config), len(cohort.channels), max(total, 1), lanes)


def _train_group(
    group: Sequence[_Member],
    cohort: Cohort,
    teachers: Sequence[RunFolder] | None,
    together: bool,
    listener: Listener | None,
) -> None:
    config = group[0].config
    steps = {member.steps(cohort) for member in group}
    if len(steps) > 1:
        raise ValueError(
            f"runs side by side take one number of steps in an epoch, not {sorted(steps)}; train "
            "these splits apart."
        )
    (per_epoch,) = steps
    program = _program_of(config, cohort, per_epoch, len(group) if together else None)
    taught = None
    if teachers is not None:
        baseline = _program_of(config.teacher(), cohort, per_epoch, None)
        taught = [restore(baseline, folder)[1] for folder in teachers]
    runs = [Run.of(member.config, member.folder, cohort, member.split) for member in group]
    try:
        done = min(max(run.checkpoints.epochs(), default=0) for run in runs)
        name = f"{config.arch} {config.scale} {config.recipe}"
        bar = progress_bar(name, config.epochs * per_epoch, done * per_epoch)
        with contextlib.nullcontext(listener) if listener else bar as told:
            best = Fit(program, cohort, runs, told, taught)()
        for member, run, (params, stats) in zip(group, runs, best, strict=True):
            if run.failed or run.finished:
                continue
            _summarize(
                member,
                program,
                (params, stats),
                cohort,
                {
                    "best_epoch": run.stopping.best_epoch,
                    "epochs_run": run.epoch,
                    "ended": run.ended or "last epoch",
                    "train_seconds": round(run.seconds, 3),
                    "lanes": len(runs),
                },
            )
    finally:
        for run in runs:
            run.checkpoints.close()
    failed = [f"{run.name}: {run.ended}" for run in runs if run.failed]
    if failed:
        raise DivergedError("; ".join(failed))


def _quantize_after(member: _Member, teacher: RunFolder, cohort: Cohort) -> None:
    """The weights of a trained baseline with the recipe's forward pass, and no further step."""
    program = _program_of(member.config, cohort, member.steps(cohort), None)
    state, best, progress = restore(program, teacher)
    run = Run.of(member.config, member.folder, cohort, member.split)
    try:
        epoch = progress["epoch"]
        if epoch not in run.checkpoints.epochs():
            run.checkpoints.save(epoch, state, best, progress)
    finally:
        run.checkpoints.close()
    trained: Any = teacher.summary()
    same = {key: trained[key] for key in ("best_epoch", "epochs_run")}
    about = {"ended": "not trained", "train_seconds": 0.0, "lanes": 1}
    _summarize(member, program, best, cohort, same | about)


def _summarize(
    member: _Member, program: Program, best: Any, cohort: Cohort, about: dict[str, Any]
) -> None:
    params, stats = best
    scores = evaluate(program, params, stats, cohort, member.split, member.folder)
    member.folder.write_summary(
        {
            "schema": SCHEMA,
            **dataclasses.asdict(member.config.resolved()),
            "parameters": sum(int(np.size(p)) for p in jax.tree.leaves(params)),
            **about,
            "device": jax.devices()[0].device_kind,
            **scores,
        }
    )
