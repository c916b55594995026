"""A pool of threads whose results come in the order of the work, a bounded number ahead."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ordered(
    function: Callable[[S], T], items: Iterable[S], workers: int, ahead: int
) -> Iterator[T]:
    """``function(item)`` for each item, in order, worked out by threads.

    At most ``ahead`` results are finished or under way beside the one that is being used. An
    exception of ``function`` is raised where its result would have been. All threads have ended
    when the iterator is exhausted, closed, or forgotten.

    Example:
        >>> list(ordered(abs, [-1, 2, -3], workers=2, ahead=2))
        [1, 2, 3]
    """
    source = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    try:
        for item in itertools.islice(source, max(1, ahead)):
            pending.append(pool.submit(function, item))
        while pending:
            result = pending.popleft().result()
            for item in itertools.islice(source, 1):
                pending.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_workers(workers: int | None, most: int) -> int:
    """The number of threads; None means one for each core, at most ``most``.

    Raises:
        ValueError: fewer than 1.
    """
    if workers is None:
        return min(most, usable_cores())
    if isinstance(workers, bool) or workers < 1:
        raise ValueError(f"workers is {workers!r}; use an integer of at least 1, or None.")
    return workers
