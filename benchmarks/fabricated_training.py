"""Training that sleeps: all that goes on around the training of a run is real, the run is not.

``execute(..., train=Times(epoch=0.1))`` lets it stand in for ``train_together``. Under the run's
lock it makes the folder, goes through epochs with checkpoints, heartbeats and records, and writes a
summary with the files that reports read. The numbers follow from the configuration alone.
Every try that ended is noted in ``journal.jsonl`` beside the folder of runs.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data import Cohort, Split
from fp4jax.files import replacing_folder
from fp4jax.train import DivergedError, Options, RunConfig, SliceData, Slices
from fp4jax.train.environment import environment
from fp4jax.train.lock import held
from fp4jax.train.member import SCHEMA, Member, member_of
from fp4jax.train.signals import Terminated, Termination
from fp4jax.train.slices import scoring

JOURNAL = "journal.jsonl"
#: Bytes of a checkpoint.
STATE = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Times:
    """What a run takes, and the training itself.

    Attributes:
        epoch: seconds that an epoch sleeps.
    """

    epoch: float = 0.1

    def __call__(
        self,
        configs: Sequence[RunConfig],
        data: SliceData,
        out: Path,
        *,
        split: Split | None = None,
        options: Options | None = None,
    ) -> None:
        """With the arguments of :func:`fp4jax.train.train_together`."""
        for config in configs:
            if config.method != "qat":
                self([config.teacher()], data, out, split=split, options=options)
                teacher = member_of(config.teacher(), data, out, split).folder
                if not teacher.finished:
                    raise DivergedError(f"the baseline {teacher.path.name} is not finished.")
            self._run(member_of(config, data, out, split), data, options or Options())

    def _run(self, member: Member, data: SliceData, options: Options) -> None:
        if member.finished:
            return
        folder = member.folder
        folder.create(member.identity, dataclasses.asdict(member.split), environment())
        path = folder.path
        with held(path, wait=options.wait) as lock, noted(path) as slept, Termination() as asked:
            if member.finished:
                return
            if options.listener:
                options.listener.begins([member.config])
            epoch, epochs = _newest(path), member.config.epochs
            folder.start_history(epoch)
            while epoch < epochs:
                time.sleep(self.epoch)
                slept.append(self.epoch)
                epoch += 1
                folder.append({"epoch": epoch, **_record(member.config, epoch)})
                lock.report(path, epoch=epoch, epochs=epochs, seconds=self.epoch)
                _save(path, epoch)
                if asked.asked:
                    raise Terminated
            lock.check()
            folder.write_summary(_summary(member, data, self.epoch * epochs))
            shutil.rmtree(path / "best", ignore_errors=True)
            (path / "checkpoints" / str(epochs)).rename(path / "best")
            shutil.rmtree(path / "checkpoints")
            if options.listener:
                options.listener.ended(member.config, folder.summary(), path)


@contextlib.contextmanager
def noted(path: Path) -> Iterator[list[float]]:
    """A line of the journal for a try, and a second lock, of its own: nobody else may be here."""
    slept: list[float] = []
    began, cpu = time.time(), time.process_time()
    guards = path.parents[1] / "guards"
    guards.mkdir(exist_ok=True)
    with (guards / path.name).open("w") as only:
        fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield slept
        finally:
            times = {"began": began, "ended": time.time(), "slept": sum(slept)}
            times |= {"cpu_began": cpu, "cpu_ended": time.process_time()}
            line = {"run": path.name, "pid": os.getpid(), "epochs": len(slept), **times}
            with (path.parents[1] / JOURNAL).open("a") as file:
                file.write(json.dumps(line) + "\n")


def read_journal(out: Path) -> list[dict[str, Any]]:
    """The tries that ended, in the order of their ends; killed ones are missing."""
    return [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]


def cohort(patients: int = 24, size: int = 32) -> Cohort:
    """Noise with a bright disk in every other slice, four slices a patient."""
    rng, n = np.random.default_rng(0), 4 * patients
    y, x = np.mgrid[:size, :size]
    images = rng.integers(0, 120, (n, size, size, 3), dtype=np.uint8)
    masks = np.zeros((n, size, size), np.uint8)
    for i in range(0, n, 2):
        cy, cx = rng.uniform(8, size - 8, 2)
        masks[i] = (y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(3, 6) ** 2
        images[i][masks[i] > 0] += 100
    ids = np.repeat([f"p{i:03}" for i in range(patients)], 4)
    slices = np.tile(np.arange(4, dtype=np.int32), patients)
    return Cohort(images, masks, ids, slices, name="fabricated", channels=("a", "b", "c"))


def task(size: int = 32) -> Slices:
    """That of :func:`cohort`."""
    return Slices("fabricated", image_size=size, augment=False)


def _save(path: Path, epoch: int) -> None:
    """A checkpoint, as a whole; the one before it goes away."""
    with replacing_folder(path / "checkpoints" / str(epoch)) as temporary:
        (temporary / "state").write_bytes(bytes(STATE))
    for old in (path / "checkpoints").glob("[0-9]*"):
        if int(old.name) < epoch:
            (old / "state").unlink()
            old.rmdir()


def _newest(path: Path) -> int:
    return max((int(p.name) for p in (path / "checkpoints").glob("[0-9]*")), default=0)


def _record(config: RunConfig, epoch: int) -> dict[str, float]:
    part = 1 - 0.6 * epoch / config.epochs + 0.01 * _noise(config)
    scores = {"val_loss": part + 0.1, "val_auprc": 1 - part, "val_hard_f2_score": 0.9 - part}
    return {"train_loss": part, **scores, "grad_norm": part**2, "learning_rate": 1e-3 * 0.8**epoch}


def _noise(config: RunConfig) -> float:
    numbers = [config.seed, *map(ord, config.recipe_name + config.method + config.split)]
    return float(np.random.default_rng(numbers).normal())


def _summary(member: Member, data: SliceData, seconds: float) -> dict[str, Any]:
    """Writes the files of a finished run, and returns its summary."""
    config, path = member.config, member.folder.path
    scores, files = _of_split(data, member.split)
    for name, content in files.items():
        (path / name).write_bytes(content)
    # A few thousandths apart, so that statistics have something to do.
    shift = 0.004 * _noise(config)
    parts = {
        part: {k: v if v is None else v + shift for k, v in scores[part].items()}
        for part in ("val", "test")
    }
    patients = {p: None if d is None else d + shift for p, d in scores["test_patients"].items()}
    resolved = config.resolved()
    return {
        "schema": SCHEMA,
        **resolved.to_json(),
        "recipe": resolved.recipe_name,
        "channels": list(data.channels),
        "regions": list(data.regions),
        "parameters": 1,
        "best_epoch": config.epochs,
        "epochs_run": config.epochs,
        "ended": "last epoch",
        "train_seconds": round(seconds, 3),
        "lanes": 1,
        "device": "cpu",
        "threshold": scores["threshold"],
        **parts,
        "test_patients": patients,
    }


_KNOWN: dict[tuple[str, Split], tuple[dict[str, Any], dict[str, bytes]]] = {}


def _of_split(data: SliceData, split: Split) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Scores of a split's patients, and the files with them; computed once in a process."""
    if (data.digest, split) not in _KNOWN:
        _KNOWN[data.digest, split] = _evaluated(data, split)
    return _KNOWN[data.digest, split]


def _evaluated(data: SliceData, split: Split) -> tuple[dict[str, Any], dict[str, bytes]]:
    parts = {name: data.cohort.select(getattr(split, name)).ordered() for name in ("val", "test")}
    with tempfile.TemporaryDirectory() as name:
        scores = scoring.evaluate(_Model(), parts, Path(name))  # pyright: ignore
        return scores, {path.name: path.read_bytes() for path in Path(name).iterdir()}


class _Model:
    """Finds what is bright, and little more."""

    writes = True

    def logits(self, images: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(1).normal(0, 1, images.shape[:3])
        return ((images.mean(-1) - 110) / 20 + noise)[..., None].astype(np.float32)
