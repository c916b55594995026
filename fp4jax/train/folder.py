"""The self-describing folder of a run: config.json, metrics.jsonl, summary.json, checkpoints/."""

import json
from pathlib import Path
from typing import Any

from fp4jax.files import finite, read_json, replacing, write_json


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
            file.write(json.dumps(finite(record), allow_nan=False) + "\n")
