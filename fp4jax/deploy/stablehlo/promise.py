"""How long JAX promises to read what ``jax.export`` wrote.

An artifact can be run by JAX up to six months newer than the one that exported it, and up to three
weeks older. What counts is when the two were built, not when the file was written
(docs/export/export.md of jax-ml/jax, "Compatibility guarantees").
"""

import calendar
import datetime
import re

#: When JAX was released, by version (CHANGELOG.md of jax-ml/jax).
RELEASES = {
    "0.9.0": datetime.date(2026, 1, 20),
    "0.9.1": datetime.date(2026, 3, 2),
    "0.9.2": datetime.date(2026, 3, 18),
    "0.10.0": datetime.date(2026, 4, 16),
    "0.10.1": datetime.date(2026, 5, 20),
    "0.10.2": datetime.date(2026, 6, 17),
    "0.11.0": datetime.date(2026, 7, 16),
}
MONTHS = 6


def readable_until(version: str) -> datetime.date | None:
    """The date up to whose releases JAX promises to read an artifact of a version.

    Of a version that is not known here, the date of the newest known one before it counts, so that
    no more is promised than JAX does; None if there is none.

    Example:
        >>> readable_until("0.10.2").isoformat(), readable_until("0.10.9").isoformat()
        ('2026-12-17', '2026-12-17')
    """
    own = _numbers(version)
    known = [date for name, date in RELEASES.items() if _numbers(name) <= own]
    return _later(max(known)) if known else None


def _numbers(version: str) -> tuple[int, ...]:
    """0.10.2.dev1 -> (0, 10, 2)."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def _later(date: datetime.date) -> datetime.date:
    """The same day six months later, or the last day of that month."""
    years, month = divmod(date.month - 1 + MONTHS, 12)
    last = calendar.monthrange(date.year + years, month + 1)[1]
    return datetime.date(date.year + years, month + 1, min(date.day, last))
