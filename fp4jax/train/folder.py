"""The folder of a run, which describes itself: whatever evaluates, exports or compares reads it."""

import json
import traceback
from pathlib import Path
from typing import Any

from fp4jax.files import finite, read_json, replacing, replacing_folder, write_json
from fp4jax.train import status
from fp4jax.train.status import Owner as Owner, Status as Status


class FinishedError(RuntimeError):
    """A finished run is never touched again."""


class RunFolder:
    """``<root>/<id>``; every file in it is written to a temporary name first, then renamed.

    ===================== ======================================================================
    ``config.json``       what was asked for
    ``split.json``        the patients to train on, to validate with and to test; none if old
    ``environment.json``  what it was made with, :func:`fp4jax.train.environment.environment`
    ``status.json``       the heartbeat, :mod:`fp4jax.train.status`
    ``metrics.jsonl``     a record per epoch
    ``summary.json``      what a finished run found, or
    ``failed.json``       why there is none
    ``checkpoints/``      while it trains
    ``best/``             the best parameters and statistics
    ===================== ======================================================================

    Nothing of it is read before it is asked for, and reading changes nothing.

    Args:
        path: of the folder, which need not be there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     run = RunFolder(Path(root) / "cnn_small")
        ...     run.create({"arch": "cnn", "epochs": 20}, {"train": ["a"], "test": ["b"]}, {})
        ...     run.append({"epoch": 1, "val_loss": 0.7})
        ...     print(run.split()["train"], "|", run.status())
        ['a'] | epoch 1 of 20, not finished
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def create(
        self,
        config: dict[str, Any],
        split: dict[str, Any] | None = None,
        environment: dict[str, Any] | None = None,
    ) -> None:
        """Makes the folder as a whole, or checks that the one that is there is of the same run.

        Raises:
            ValueError: the folder holds another run.
            OSError: it cannot be created.
        """
        parts = {"config": config, "split": split, "environment": environment}
        if self.config() is None:
            with replacing_folder(self.path, keep_existing=True) as temporary:
                _write(temporary, parts)
        if self.config() is None:  # a folder was there, without a run
            _write(self.path, parts)
        known, asked = self.config() or {}, _as_json(config)
        differing = {key for key in {*known, *asked} if known.get(key) != asked.get(key)}
        if split is not None and self.split() not in (None, _as_json(split)):
            differing.add("split")
        if differing:
            raise ValueError(
                f"{self.path} holds another run (differing: {', '.join(sorted(differing))}); "
                "choose another folder or delete this one."
            )

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def finished(self) -> bool:
        """Whether there is a summary; like the next two without reading more than must be."""
        return (self.path / "summary.json").exists()

    @property
    def failed(self) -> bool:
        """Whether the last try failed."""
        return (self.path / "failed.json").exists()

    @property
    def running(self) -> bool:
        """Whether a process trains it, by its heartbeat."""
        record = status.read(self.path)
        return record is not None and status.is_alive(record, status.age(self.path))

    def config(self) -> dict[str, Any] | None:
        return read_json(self.path / "config.json")

    def split(self) -> dict[str, Any] | None:
        """None in folders of earlier versions."""
        return read_json(self.path / "split.json")

    def environment(self) -> dict[str, Any] | None:
        """None in folders of earlier versions."""
        return read_json(self.path / "environment.json")

    def summary(self) -> dict[str, Any] | None:
        """What a finished run found; None before that."""
        return read_json(self.path / "summary.json")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Finishes the run.

        Raises:
            FinishedError: it is finished, here and in all methods that write.
        """
        self._unfinished()
        self.clear_failure()
        write_json(self.path / "summary.json", summary)

    def failure(self) -> dict[str, Any] | None:
        """``error``, a line or more, and ``traceback`` of a run that failed."""
        return read_json(self.path / "failed.json")

    def write_failure(self, error: BaseException) -> None:
        """Records why the run has no summary; makes the folder if the run did not come so far."""
        self._unfinished()
        self.path.mkdir(parents=True, exist_ok=True)
        record = {
            "error": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
        }
        write_json(self.path / "failed.json", record)

    def clear_failure(self) -> None:
        """For a run that is tried again."""
        (self.path / "failed.json").unlink(missing_ok=True)

    def history(self) -> list[dict[str, Any]]:
        """One record per finished epoch; a line that a killed run left incomplete is dropped."""
        path = self.path / "metrics.jsonl"
        records = []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def start_history(self, epoch: int) -> None:
        """Keeps the records of the first ``epoch`` epochs: where a resumed run goes on."""
        path = self.path / "metrics.jsonl"
        text = "".join(json.dumps(r) + "\n" for r in self.history() if r["epoch"] <= epoch)
        if path.exists() and path.read_text() == text:
            return
        self._unfinished()
        with replacing(path) as temporary:
            temporary.write_text(text)

    def append(self, record: dict[str, Any]) -> None:
        """Adds the record of an epoch."""
        self._unfinished()
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(finite(record), allow_nan=False) + "\n")

    def status(self) -> Status:
        """How far the run is and who trains it, from the files alone."""
        record = status.read(self.path)
        known = record or {}
        epoch, epochs = known.get("epoch"), known.get("epochs")
        if epoch is None:  # of an earlier version, or killed before its first epoch
            history = self.history()
            epoch = history[-1]["epoch"] if history else 0
        if epochs is None:
            config = self.config() or {}
            epochs = config.get("config", config).get("epochs")
        owner, state = None, "interrupted" if record or epoch else "new"
        if self.finished:
            state = "finished"
        elif record is not None and status.is_alive(record, status.age(self.path)):
            state, owner = "running", status.owner(record)
        elif self.failed:
            state = "failed"
        return Status(
            state=state,
            epoch=epoch,
            epochs=epochs,
            seconds=known.get("seconds"),
            owner=owner,
            group=status.group(self.path, record),
            lane=known.get("lane"),
        )

    def _unfinished(self) -> None:
        if self.finished:
            raise FinishedError(
                f"{self.path} holds a finished run, which is never changed; delete the folder to "
                "repeat the run, or choose another one."
            )


def _write(folder: Path, parts: dict[str, dict[str, Any] | None]) -> None:
    """The configuration comes last: a folder with one has everything."""
    for name, part in reversed(parts.items()):
        if part is not None:
            write_json(folder / f"{name}.json", part)


def _as_json(record: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(finite(record)))
