"""One part of run_gpu: its time, its tables, and the JSON file in which they are kept."""

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import timing
from benchmarks.timing import Result

T = TypeVar("T")


@dataclasses.dataclass
class Job:
    """What a part is given, and where it leaves its figures.

    The file is written again after every table, so that what was measured is kept whatever
    happens next. Its ``status`` is "running" until the part is "done" or "failed".
    """

    name: str
    # the folder
    out: Path
    # rounds of every table
    rounds: int
    # toy sizes
    tiny: bool
    # seconds the part may take; it starts nothing new after 0.85 of them
    seconds: float
    tables: dict[str, dict] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    status: str = "running"
    error: str | None = None
    start: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def path(self) -> Path:
        return self.out / f"{self.name}.json"

    def run(self, part: Callable[["Job"], None]) -> None:
        """Runs the part; a failure is recorded with its traceback, not raised."""
        self.save()
        try:
            part(self)
        except Exception:
            self.status, self.error = "failed", traceback.format_exc()
        else:
            self.status = "done"
        self.save()

    def add(self, title: str, found: Sequence[Result] | Sequence[dict], **about: Any) -> None:
        """A table, of results or of rows; ``about`` says what it is for whoever reads the JSON."""
        results = [r for r in found if isinstance(r, Result)]
        rows = timing.rows(results) if results else list(found)
        self.tables[title] = {"about": about, "rows": rows}
        self.save()

    def in_time(self, items: Iterable[T], name: Callable[[T], str]) -> Iterator[T]:
        """The items, as long as there is time; the rest is noted as left out."""
        left_out = []
        for item in items:
            if time.monotonic() - self.start > 0.85 * self.seconds:
                left_out.append(name(item))
            else:
                yield item
        if left_out:
            self.notes.append(f"left out, for lack of time: {', '.join(left_out)}")
            self.save()

    def save(self) -> None:
        content = {
            "part": self.name,
            "status": self.status,
            "seconds": round(time.monotonic() - self.start, 1),
            "tiny": self.tiny,
            "machine": timing.machine(),
            "tables": self.tables,
            "notes": self.notes,
            "error": self.error,
        }
        timing.write_json(self.path, content)
