"""The self-describing folder of a run: config.json, metrics.jsonl, summary.json, checkpoints/."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class RunFolder:
    """``<root>/<id>``; every file in it is written to a temporary name first, then renamed."""

    def __init__(self, path: Path):
        self.path = path

    def open(self, config: dict[str, Any]) -> None:
        """Creates the folder, or checks that it belongs to this configuration.

        Raises:
            ValueError: the folder holds another run.
            OSError: it cannot be created.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        known = read_json(self.path / "config.json")
        if known is None:
            write_json(self.path / "config.json", config)
        elif known != json.loads(json.dumps(config)):
            differing = sorted(k for k in {*known, *config} if known.get(k) != config.get(k))
            raise ValueError(
                f"{self.path} holds another run (differing: {', '.join(differing)}); choose "
                "another folder or delete this one."
            )

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def summary(self) -> dict[str, Any] | None:
        """What a finished run found; None before that."""
        return read_json(self.path / "summary.json")

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

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
        lines = [json.dumps(r) + "\n" for r in self.history() if r["epoch"] <= epoch]
        with replacing(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(lines))

    def append(self, record: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None if there is no such file."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no JSON: {error}. Delete it and repeat the command."
        ) from error


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(record), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """JSON has no NaN: a metric that is not defined is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it when the block ends without an error."""
    descriptor, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files for the owner only; ordinary files follow the umask
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
