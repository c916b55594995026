"""Journal: what a folder of results was made by, and what is done, so that a repetition goes on.

``made_by.jsonl`` in the folder: the command in the first line, then a line for each job as soon as
its files are there.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fp4jax.files import replacing

FILE = "made_by.jsonl"


@dataclasses.dataclass(frozen=True)
class Job:
    """A slice or a case to segment.

    Attributes:
        name: tells it from others.
        inputs: a fingerprint of the files that it is read from.
        outputs: the files that are written, in the folder.
    """

    name: str
    inputs: str
    outputs: tuple[Path, ...]


class Journal:
    """The journal of a folder.

    Args:
        folder: of the results; it need not be there.
        command: all that the results depend on beside their inputs, by name, as JSON holds it.
        overwrite: begin anew, and replace what is there, whatever it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     jobs = [Job(name, "crc", (Path(out) / f"{name}.png",)) for name in "ab"]
        ...     first = Journal(Path(out), {"recipe": "full"})
        ...     [job.name for job in first.remaining(jobs)]
        ...     first.begin()
        ...     jobs[0].outputs[0].touch()
        ...     first.add(jobs[0], {"ml": 2.5})
        ...     again = Journal(Path(out), {"recipe": "full"})
        ...     [job.name for job in again.remaining(jobs)], again.done["a"]
        ['a', 'b']
        (['b'], {'ml': 2.5})
    """

    def __init__(self, folder: Path, command: Mapping[str, Any], *, overwrite: bool = False):
        self.folder, self.path, self.overwrite = folder, folder / FILE, overwrite
        self.command = json.loads(json.dumps(command))
        #: name -> what :meth:`add` was given, for the jobs that are done.
        self.done: dict[str, Any] = {}

    def remaining(self, jobs: Sequence[Job], others: Sequence[Path] = ()) -> list[Job]:
        """The jobs that are not done; writes nothing.

        A job is done if this command did it, its files are there, and its inputs are the same.

        Args:
            jobs: all of them.
            others: further files that will be written.

        Raises:
            ValueError: files would be replaced, and this command did not write them.
        """
        self.done = {}
        if self.overwrite:
            return list(jobs)
        lines = self._lines()
        if lines[:1] == [self.command]:
            known = {line["job"]: line for line in lines[1:]}
            for job in jobs:
                line = known.get(job.name)
                if line and line["inputs"] == job.inputs and all(p.exists() for p in job.outputs):
                    self.done[job.name] = line["found"]
            return [job for job in jobs if job.name not in self.done]
        written = [self.folder / name for line in lines[1:] for name in line["files"]]
        wanted = [*(path for job in jobs for path in job.outputs), *others]
        existing = [path for path in dict.fromkeys([*wanted, *written]) if path.exists()]
        if existing:
            more = f" and {len(existing) - 1} more exist" if len(existing) > 1 else " exists"
            raise ValueError(
                f"{existing[0]}{more} already{_differing(lines, self.command)}; name another "
                "folder, or pass --overwrite."
            )
        return list(jobs)

    def begin(self) -> None:
        """Makes the folder, and its journal where this command begins it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = self._lines()
        # What is done is kept; half a line at the end, of a command that was killed, is not.
        kept = lines if lines[:1] == [self.command] and not self.overwrite else [self.command]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, job: Job, found: Any) -> None:
        """Says that a job is done, and what was found: JSON, with NaN and infinity."""
        line = {
            "job": job.name,
            "inputs": job.inputs,
            "files": [path.relative_to(self.folder).as_posix() for path in job.outputs],
            "found": found,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line, default=float) + "\n")
        self.done[job.name] = json.loads(json.dumps(found, default=float))

    def _lines(self) -> list[Any]:
        lines = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines


def _differing(lines: Sequence[Any], command: Mapping[str, Any]) -> str:
    """In what the command differs from the one that wrote a journal."""
    if not lines:
        return ""
    names = [name for name in {**lines[0], **command} if lines[0].get(name) != command.get(name)]
    return f", by a command that differs in {', '.join(names)}"
