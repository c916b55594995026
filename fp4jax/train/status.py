"""How far a run is and who trains it: status.json, which its trainer renews like a heartbeat."""

import dataclasses
import functools
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from fp4jax.files import read_json

FILE = "status.json"
#: Seconds without a heartbeat after which a process on another host is taken for dead.
STALE = 60.0
# By file system: its time, and this process's at that moment.
_LOOKS: dict[int, tuple[float, float]] = {}


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that trains a run.

    Attributes:
        host: name of its host.
        pid: its number there.
        since: when it began, ISO 8601 in UTC.
    """

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@dataclasses.dataclass(frozen=True)
class Status:
    """How far a run is; ``str(status)`` is a phrase such as "epoch 7 of 20, not finished".

    Attributes:
        state: ``interrupted`` is a run that began and that no process trains.
        epoch: the number of epochs that are done.
        epochs: the number of epochs that the run may take; None where it is not known.
        seconds: that an epoch of it takes, on average; None where it is not known.
        owner: of a running one.
        group: folder of the group whose checkpoint the run has a part of; None for its own.
        lane: its place in that.
    """

    state: Literal["new", "running", "interrupted", "finished", "failed"]
    epoch: int = 0
    epochs: int | None = None
    seconds: float | None = None
    owner: Owner | None = None
    group: Path | None = None
    lane: int | None = None

    @property
    def left(self) -> float | None:
        """Seconds that a running run goes on if none of its epochs is saved by early stopping."""
        if self.state != "running" or self.seconds is None or self.epochs is None:
            return None
        return max(self.epochs - self.epoch, 0) * self.seconds

    def __str__(self) -> str:
        if self.state == "new":
            return "not begun"
        of = "" if self.epochs is None else f" of {self.epochs}"
        what = {
            "running": f"running as {self.owner}",
            "interrupted": "not finished",
            "finished": "finished",
            "failed": "failed",
        }
        return f"epoch {self.epoch}{of}, {what[self.state]}"


def read(folder: Path) -> dict[str, Any] | None:
    """The status of a run's folder as it was written last; None without any."""
    try:
        return read_json(folder / FILE)
    except FileNotFoundError:  # deleted since it was seen
        return None


def owner(record: dict[str, Any] | None) -> Owner | None:
    """Who wrote a record, unless it was let go."""
    if record is None or record.get("heartbeat") is None:
        return None
    return Owner(record["host"], record["pid"], record["started"])


def group(folder: Path, record: dict[str, Any] | None) -> Path | None:
    """Folder of the group that a record names, relative to the run's so that both may move."""
    relative = (record or {}).get("group")
    return None if relative is None else Path(os.path.normpath(folder / relative))


def here() -> dict[str, Any]:
    """What tells this machine from others, and from those of the same name."""
    return {"host": platform.node(), "boot": _boot()}


def is_here(record: dict[str, Any]) -> bool:
    """Whether a record was written on this machine."""
    return record["host"] == platform.node() and record.get("boot") in (None, _boot())


def age(folder: Path, now: float | None = None) -> float:
    """Seconds since the heartbeat, by the times of files.

    Args:
        folder: of the run.
        now: :func:`filesystem_now`; default: as it is known from a look in the last minute, which
            is enough to see who lives.
    """
    try:
        written = (folder / FILE).stat()
    except FileNotFoundError:
        return float("inf")
    return (_about_now(folder, written.st_dev) if now is None else now) - written.st_mtime


def filesystem_now(folder: Path) -> float:
    """The time by the clock that stamps the folder's files, which is another host's if shared.

    Raises:
        OSError: the folder cannot be written to.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _about_now(folder: Path, device: int) -> float:
    """As :func:`filesystem_now`, from a look that may be old; this host's time if none can be."""
    since = time.monotonic()
    stamp, looked = _LOOKS.get(device, (0.0, -float("inf")))
    if since - looked > STALE:
        try:
            stamp = filesystem_now(folder)
        except OSError:  # others' runs may be watched
            return time.time()
        _LOOKS[device] = stamp, looked = stamp, since
    return stamp + since - looked


def is_alive(record: dict[str, Any], seconds: float, stale: float = STALE) -> bool:
    """Whether the process that wrote a record lives, as far as one sees without its lock.

    Args:
        record: of status.json.
        seconds: since its heartbeat.
        stale: seconds after which a heartbeat counts no more.
    """
    if record.get("heartbeat") is None or seconds > stale:
        return False
    return not is_here(record) or _is_process(record["pid"])


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
