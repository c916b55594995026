"""One process trains a run: a lock on its folder, with a heartbeat that others can see.

On one host, and wherever flock reaches, the operating system holds the lock and lets it go when the
process dies, in whatever way. Shared file systems on which flock does not reach other hosts, or is
not there at all, are why the holder renews status.json too: a heartbeat that stopped is a dead
process. Both times that are compared are of files in that folder, so hosts' clocks do not matter.
"""

import contextlib
import errno
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import filelock

from fp4jax.files import write_json
from fp4jax.train import status
from fp4jax.train.environment import now
from fp4jax.train.status import STALE, Owner

#: Seconds between two heartbeats.
BEAT = 5.0
# Seconds after which two processes that took the same stale run see each other, and one leaves it.
_SETTLE = 2.0
# Seconds between two tries of a process that waits.
_POLL = 0.2
_LOCK = ".lock"


class BusyError(RuntimeError):
    """Another process trains the run.

    Attributes:
        folder: of the run.
        owner: that process; None where it has not said yet who it is.
        epoch: how far it is.
    """

    def __init__(self, folder: Path, record: dict[str, Any] | None):
        self.folder, self._record = folder, record
        self.owner: Owner | None = status.owner(record)
        self.epoch: int = (record or {}).get("epoch") or 0
        who = "" if self.owner is None else f" ({self.owner}; epoch {self.epoch})"
        super().__init__(
            f"another process{who} is training {folder}. Leave it alone, wait for its end, or end "
            "it and repeat the command: the run then goes on from its last checkpoint."
        )

    def __reduce__(self) -> tuple[type["BusyError"], tuple[Any, ...]]:
        """For other processes."""
        return BusyError, (self.folder, self._record)


class LostError(RuntimeError):
    """This process was silent for so long that another one has taken over its run."""


class Held:
    """Locked folders; made by :func:`held`."""

    def __init__(self, folders: list[Path]):
        self._records: dict[Path, dict[str, Any]] = {}
        self._token = uuid.uuid4().hex
        self._lost: Path | None = None
        self._writing = threading.Lock()
        self._started = now()
        for folder in folders:
            self._records[folder] = {
                **dict.fromkeys(("epoch", "epochs", "seconds", "group", "lane")),
                **(status.read(folder) or {}),
                **status.here(),
                "pid": os.getpid(),
                "token": self._token,
                "started": self._started,
            }

    def report(
        self,
        folder: Path,
        *,
        epoch: int,
        epochs: int,
        seconds: float | None = None,
        group: Path | None = None,
        lane: int | None = None,
    ) -> None:
        """Writes how far the run in ``folder`` is, for others to see.

        Args:
            folder: of the run.
            epoch, epochs: that are done, and that there may be.
            seconds: that an epoch takes.
            group: whose checkpoint the run has a part of.
            lane: its place in that.

        Raises:
            LostError: see :meth:`check`.
            KeyError: the folder is not held.
            OSError: the file cannot be written.
        """
        relative = None if group is None else os.path.relpath(group, folder)
        folder = _absolute(folder)
        with self._writing:
            self._records[folder] |= {
                "epoch": epoch,
                "epochs": epochs,
                "seconds": seconds,
                "group": relative,
                "lane": lane,
            }
            self._write(folder)
        self.check()

    def check(self) -> None:
        """Must be called before anything is written into the folders.

        Raises:
            LostError: the process was suspended, its heartbeat stopped, and a process on another
                host has taken over a folder. Nothing may be written to it any more.
        """
        if self._lost is not None:
            raise LostError(
                f"another process has taken over {self._lost}, because this one was suspended for "
                "long; it leaves the run alone. Nothing is lost."
            )

    def is_mine(self, folder: Path) -> bool:
        """Whether no other process has taken over a folder."""
        record = status.read(folder)
        return record is None or record.get("token") == self._token

    def take(self, folder: Path) -> None:
        """Signs a folder that nobody else holds."""
        # What a process left that was killed while it wrote.
        for path in folder.glob(f".{status.FILE}.*"):
            path.unlink(missing_ok=True)
        with self._writing:
            self._put(folder, time_of=now())

    def beat(self) -> None:
        """Renews all heartbeats. A disk that is full for now is none of a heartbeat's worries."""
        with self._writing:
            for folder in self._records:
                with contextlib.suppress(OSError, ValueError):
                    self._write(folder)

    def let_go(self, folder: Path) -> None:
        """Says that no process trains the run now."""
        with self._writing, contextlib.suppress(OSError, ValueError):
            if self.is_mine(folder):
                self._put(folder, time_of=None)

    def _write(self, folder: Path) -> None:
        if self.is_mine(folder):
            self._put(folder, time_of=now())
        else:
            self._lost = folder

    def _put(self, folder: Path, time_of: str | None) -> None:
        write_json(folder / status.FILE, self._records[folder] | {"heartbeat": time_of})


@contextlib.contextmanager
def held(
    *folders: Path, wait: float | None = 0.0, stale: float = STALE, beat: float = BEAT
) -> Iterator[Held]:
    """Locks folders of runs, all or none, while the block runs; they must be there.

    A run whose process died is taken over: at once if that was on this host, and when its heartbeat
    is older than ``stale`` seconds otherwise. Folders are locked in one order in all processes, so
    that none wait for each other. Two calls in one process are two processes. Folders can be read
    without a lock. The file ``.lock`` stays: deleting it would let two processes hold two files of
    one name.

    Args:
        folders: to lock.
        wait: how many seconds to wait for another process; None: without end.
        stale: seconds without a heartbeat after which a process on another host counts as dead.
        beat: seconds between two heartbeats.

    Raises:
        BusyError: another process holds one of them.
        OSError: a folder is not there or cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     run = Path(name)
        ...     with held(run) as lock:
        ...         lock.report(run, epoch=7, epochs=20)
        ...         try:
        ...             with held(run):
        ...                 pass
        ...         except BusyError as error:
        ...             print(error.epoch, "another process" in str(error))
        7 True
    """
    deadline = float("inf") if wait is None else time.monotonic() + wait
    with contextlib.ExitStack() as stack:
        certain = {
            folder: stack.enter_context(_locked(folder, deadline, stale))
            for folder in sorted({_absolute(folder) for folder in folders})
        }
        lock = Held(list(certain))
        for folder in certain:
            stack.callback(lock.let_go, folder)
            lock.take(folder)
        if not all(certain.values()):
            time.sleep(_SETTLE)
        for folder in certain:
            if not lock.is_mine(folder):
                raise BusyError(folder, status.read(folder))
        stopped = threading.Event()
        arguments = (lock, stopped, beat)
        thread = threading.Thread(target=_renew, args=arguments, name="heartbeat", daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stopped.set)
        yield lock


def _renew(lock: Held, stopped: threading.Event, beat: float) -> None:
    while not stopped.wait(beat):
        lock.beat()


@contextlib.contextmanager
def _locked(folder: Path, deadline: float, stale: float) -> Iterator[bool]:
    """Holds the lock of one folder; yields whether that alone keeps all others away."""
    with contextlib.ExitStack() as stack:
        while True:
            taken = _flock(folder)
            if taken is not False:
                stack.callback(_unlock, taken)
                record = status.read(folder)
                # With flock, a record of this host is that of a process which is gone.
                gone = record is None or (taken is not None and status.is_here(record))
                seconds = status.age(folder, status.filesystem_now(folder))
                if gone or not status.is_alive(record or {}, seconds, stale):
                    break
                stack.close()
            if time.monotonic() >= deadline:
                raise BusyError(folder, status.read(folder))
            time.sleep(_POLL)
        yield taken is not None and (gone or status.owner(record) is None)


def _flock(folder: Path) -> filelock.BaseFileLock | Literal[False] | None:
    """The lock of the operating system; False if it is held, None if the folder knows no locks."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to lock; make it first.")
    lock = filelock.FileLock(folder / _LOCK, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP):
            raise
        return None
    return lock


def _absolute(folder: Path) -> Path:
    return Path(os.path.abspath(folder))


def _unlock(lock: filelock.BaseFileLock | None) -> None:
    if lock is not None:
        lock.release()
