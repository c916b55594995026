"""How a command shows what is logged: on stderr, a line each, as it shows errors."""

import contextlib
import logging
import sys
from collections.abc import Iterator


class _Lines(logging.Handler):
    """``warning: MESSAGE`` on what ``sys.stderr`` is by then, which progress bars replace."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def shown_in_lines() -> Iterator[None]:
    """While a command runs, fp4jax's warnings are shown so, and by nobody else.

    Libraries give the root logger a handler on import, with another format. Where somebody has
    given fp4jax's logger one already, it stays as it is.

    Example:
        >>> with contextlib.redirect_stderr(sys.stdout), shown_in_lines():
        ...     logging.getLogger("fp4jax.train").warning("%d runs are open.", 2)
        warning: 2 runs are open.
    """
    logger = logging.getLogger("fp4jax")
    if logger.handlers:
        yield
        return
    handler, propagates = _Lines(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
