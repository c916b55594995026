"""Claim: of several processes, which one tells a tracker of a run."""

import contextlib
from pathlib import Path

import filelock


class Claim:
    """A lock on a run in a tracker, kept while the process lives or until it is given back.

    Args:
        path: of the lock's file; None: there are no other processes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one, other = (Claim(Path(folder) / "run.lock") for _ in range(2))
        ...     taken = one.take(), other.take()
        ...     one.give_back()
        ...     taken, other.take(), other.give_back()
        ((True, False), True, None)
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._lock = None if path is None else filelock.FileLock(path)

    def take(self) -> bool:
        """Whether it is this one's now."""
        if self._lock is None or self._path is None or self._lock.is_locked:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except NotImplementedError:  # a file system without locks
            self._lock = None
        return True

    def give_back(self) -> None:
        """Frees it."""
        if self._lock is not None and self._lock.is_locked:
            assert self._path is not None
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._lock.release()
