"""Sender: a thread that makes calls in order, so that a slow tracker holds no step back."""

import queue
import threading
from collections.abc import Callable


class Sender:
    """Makes calls one after the other, in a thread of its own.

    The thread is no reason for a process to stay: what it has not done by then is lost.

    Args:
        name: of the thread.

    Example:
        >>> done = []
        >>> sender = Sender("example")
        >>> for i in range(3):
        ...     sender(lambda i=i: done.append(i))
        >>> sender.close(seconds=10.0), done
        (0, [0, 1, 2])
    """

    def __init__(self, name: str):
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __call__(self, call: Callable[[], None]) -> None:
        """Puts a call into the queue.

        Raises:
            Exception: what an earlier call raised, once.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put(call)
        self.check()

    def check(self) -> None:
        """Raises what a call raised since the last look."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self, seconds: float) -> int:
        """Waits until all calls are made, for so many seconds at most; the number of those left."""
        if self._thread is None:
            return 0
        self._calls.put(None)
        self._thread.join(seconds)
        return self._calls.qsize() if self._thread.is_alive() else 0

    @property
    def is_stuck(self) -> bool:
        """Whether a call is still being made."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                self._error = error
