"""SIGTERM ends a training between two steps, its work saved; Ctrl-C waits for what is written."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

#: Exit code of a process that SIGTERM ended, as shells and schedulers know it.
TERMINATED = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """The process was asked to end, and what it did is saved; its exit code is 143.

    Like KeyboardInterrupt it is no Exception: a study does not record it as a failed run.
    """

    def __init__(self) -> None:
        super().__init__(TERMINATED)


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """Ctrl-C has its effect after the block, so that what is written there is not half begun.

    A second Ctrl-C does not wait. In a thread other than the main one, and where something else
    than Python's own handler is there, nothing changes.

    Example:
        >>> import os
        >>> try:
        ...     with undivided():
        ...         os.kill(os.getpid(), signal.SIGINT)
        ...         print("written")
        ... except KeyboardInterrupt:
        ...     print("and interrupted")
        written
        and interrupted
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


class Termination:
    """``with Termination() as termination:`` notes SIGTERM, for code that ends where it can.

    Further SIGTERMs while it ends change nothing. What handled SIGTERM before does so again after
    the block. In a thread other than the main one, where Python allows no handlers, ``asked``
    stays False.

    Attributes:
        asked: whether SIGTERM has arrived, in this block or in one inside it.

    Example:
        >>> import os, signal
        >>> with Termination() as termination:
        ...     for step in range(10):
        ...         if step == 3:
        ...             os.kill(os.getpid(), signal.SIGTERM)
        ...         if termination.asked:  # save, then raise Terminated
        ...             break
        >>> step
        3
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: object = None

    def __enter__(self) -> "Termination":
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._installed:
            # None: a handler that was not installed by Python, and cannot be again.
            before = signal.SIG_DFL if self._before is None else self._before
            signal.signal(signal.SIGTERM, before)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        outer = getattr(self._before, "__self__", None)
        if isinstance(outer, Termination):
            outer._note(number, frame)
