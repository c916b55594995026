"""What is kept of a study beside its runs: what it is, of which data, what it should find.

Nothing in it changes once it is written; several studies, and parts of one that several commands
execute, lie side by side in the folder ``studies``, and share the folder ``runs``.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fp4jax.files import read_json, write_json
from fp4jax.study.expectations import Expectation
from fp4jax.study.plan import Study
from fp4jax.train.environment import now
from fp4jax.train.task import Data

_SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class StudyRecord:
    """A study as its file has it.

    Attributes:
        name: of the study.
        study: its fields, as JSON holds them.
        data: what they are: digest, channels, regions, number of patients, lines that describe
            them; of slices also :func:`fp4jax.data.fingerprint`.
        expected: what it should find.
        runs: ids of all its runs.
        command: that executed it first.
        date: of that, ISO 8601 in UTC.
    """

    name: str
    study: dict[str, Any]
    data: dict[str, Any]
    expected: tuple[Expectation, ...] = ()
    runs: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    date: str = ""


def write_record(
    study: Study,
    data: dict[str, Any],
    out: Path,
    *,
    names: Sequence[str],
    name: str = "study",
    expected: Sequence[Expectation] = (),
) -> Path:
    """Writes ``out/studies/<name>-<hash>.json``, if it is not there yet.

    Args:
        study: which.
        data: what they are, see :func:`described`.
        out: folder of the runs' folder.
        names: ids of its runs.
        name: of the study.
        expected: what it should find.

    Raises:
        OSError: it cannot be written.
    """
    counted = {
        "schema": _SCHEMA,
        "name": name,
        "study": study.to_json(),
        "data": data,
        "expected": [dataclasses.asdict(one) for one in expected],
        "runs": list(names),
    }
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:10]
    path = out / "studies" / f"{name}-{digest}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**counted, "command": list(sys.argv), "date": now()})
    return path


def described(data: Data) -> dict[str, Any]:
    """Data in a few words, and the digest by which they are known."""
    print_of = getattr(data, "fingerprint", None) or {}
    # A checksum per slice is for machines.
    print_of = {key: value for key, value in print_of.items() if key != "crc32"}
    return {
        **print_of,
        "digest": data.digest,
        "patients": len(data.patients),
        "channels": list(data.channels),
        "regions": list(data.regions),
        "about": data.describe(),
    }


def read_records(out: Path) -> list[StudyRecord]:
    """The studies in a folder, by date; also that of version 0.1, which had one of each folder.

    Raises:
        ValueError: a file that is no study.
    """
    found = [_earlier(record) for record in [read_json(out / "study.json")] if record]
    for path in sorted((out / "studies").glob("*.json")):
        record = read_json(path) or {}
        if "runs" not in record:
            raise ValueError(f"{path} holds no study; delete it and repeat the study's command.")
        found.append(_of(record))
    return sorted(found, key=lambda study: (study.date, study.name, study.runs))


def _of(record: dict[str, Any]) -> StudyRecord:
    return StudyRecord(
        name=record["name"],
        study=record["study"],
        data=record["data"],
        expected=tuple(Expectation(**one) for one in record["expected"]),
        runs=tuple(record["runs"]),
        command=tuple(record["command"]),
        date=record["date"],
    )


def _earlier(record: dict[str, Any]) -> StudyRecord:
    data = {key: value for key, value in record.get("fingerprint", {}).items() if key != "crc32"}
    runs = tuple(name for part in record.get("lanes", ()) for name in part)
    return StudyRecord("study", record.get("study", {}), data, runs=runs)
