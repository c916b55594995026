"""Executes a study: skips what is finished, records what failed, goes on where it was cut off."""

import dataclasses
import json
import traceback
from pathlib import Path
from typing import Any

from fp4jax.data import Cohort, fingerprint
from fp4jax.files import read_json, write_json
from fp4jax.study.lanes import lanes
from fp4jax.study.plan import Study
from fp4jax.train.config import RunConfig
from fp4jax.train.folder import RunFolder
from fp4jax.train.listeners import Listener
from fp4jax.train.run import train_together

_FAILED = "failed.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A study that was executed.

    Attributes:
        folders: of the finished runs, in the study's order.
        failures: (run, one line) of the runs that failed, now or in an earlier call.
        trained: number of runs that were finished now.
        changed: whether a run was finished or failed now.
    """

    folders: tuple[RunFolder, ...]
    failures: tuple[tuple[str, str], ...]
    trained: int
    changed: bool


def execute(
    study: Study,
    cohort: Cohort,
    out: Path,
    *,
    retry: bool = False,
    watcher: Listener | None = None,
) -> Outcome:
    """Trains and evaluates all runs of a study that are not finished.

    Args:
        study: what to run.
        cohort: its images have ``study.image_size``.
        out: gets ``study.json`` (the study, its cohort's fingerprint, which runs went side by
            side) and ``runs/<id>/``; several studies may share it, and their runs.
        retry: runs that failed before, too; else they stay failed.
        watcher: is told what happens; default: no one.

    Raises:
        OSError: a disk that is full or read-only. Whatever else goes wrong in a run is recorded
            in its folder (``failed.json``, with the traceback), and the study goes on.
    """
    watcher = watcher or Listener()
    runs = out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    print_of = fingerprint(cohort)
    digest = print_of["sha256"]
    parts = _recorded_parts(study, cohort, out, digest)
    write_json(
        out / "study.json",
        {
            "study": dataclasses.asdict(study),
            "fingerprint": print_of,
            "lanes": [[run.id(digest) for run in part] for part in parts],
        },
    )
    trained, changed = 0, False
    for part in parts:
        folders = [RunFolder(runs / run.id(digest)) for run in part]
        open_ = [f for f in folders if f.summary() is None]
        if not open_ or (not retry and all((f.path / _FAILED).exists() for f in open_)):
            for run, folder in zip(part, folders, strict=True):
                watcher.ended(run, folder.summary())
            continue
        watcher.begins(part)
        changed = True
        error: Exception | None = None
        try:
            train_together(part, cohort, runs, listener=watcher)
        except OSError:
            raise
        except Exception as caught:
            error = caught
        for run, folder in zip(part, folders, strict=True):
            done = folder.summary() is not None
            if folder in open_ and done:
                trained += 1
            _record(folder, None if done else error)
            watcher.ended(run, folder.summary())
    finished, failures = _found(study, runs, digest)
    return Outcome(finished, failures, trained, changed)


def _recorded_parts(study: Study, cohort: Cohort, out: Path, digest: str) -> list[list[RunConfig]]:
    """Lanes as an earlier call recorded them, else as this machine's memory allows."""
    by_id = {run.id(digest): run for run in study.runs()}
    known = (read_json(out / "study.json") or {}).get("lanes", [])
    if sorted(name for part in known for name in part) == sorted(by_id):
        return [[by_id[name] for name in part] for part in known]
    return [p for group in study.groups() for p in lanes(group, cohort, study.max_lanes)]


def _record(folder: RunFolder, error: Exception | None) -> None:
    path = folder.path / _FAILED
    if error is None:
        path.unlink(missing_ok=True)
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    record = {
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }
    write_json(path, record)


def _found(study: Study, runs: Path, digest: str):
    """(folders of finished runs, failures), in the study's order."""
    finished, failures = [], []
    for run in study.runs():
        folder = RunFolder(runs / run.id(digest))
        if folder.summary() is not None:
            finished.append(folder)
        else:
            failed = read_json(folder.path / _FAILED) or {"error": "not run"}
            failures.append((folder.path.name, failed["error"].splitlines()[0]))
    return tuple(finished), tuple(failures)


def configuration(study: Study) -> dict[str, Any]:
    """A study as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(study)))
