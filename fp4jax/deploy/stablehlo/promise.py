"""How long JAX promises to read what ``jax.export`` wrote.

An artifact can be run by JAX up to six months newer than the one that exported it, and up to three
weeks older. What counts is when the two were built, not when the file was written
(docs/export/export.md of jax-ml/jax, "Compatibility guarantees"). No installed package says when
it was built, so dates are of the releases known here; a later one was built later, so that the
newest date before it promises less, never more.
"""

import calendar
import dataclasses
import datetime
import re

#: When JAX was released, by version (CHANGELOG.md of jax-ml/jax; the last two: the files' dates in
#: the wheel).
RELEASES = {
    "0.9.0": datetime.date(2026, 1, 20),
    "0.9.1": datetime.date(2026, 3, 2),
    "0.9.2": datetime.date(2026, 3, 18),
    "0.10.0": datetime.date(2026, 4, 16),
    "0.10.1": datetime.date(2026, 5, 20),
    "0.10.2": datetime.date(2026, 6, 17),
    "0.11.0": datetime.date(2026, 7, 16),
    "0.11.1": datetime.date(2026, 8, 17),
    "0.12.0": datetime.date(2026, 10, 16),
}
MONTHS, WEEKS = 6, 3


@dataclasses.dataclass(frozen=True)
class Promise:
    """Which JAX runs an artifact; ``str(promise)`` says it.

    Attributes:
        jaxlib: the version that exported it.
        built: the day of its release, or of the newest known one before it; None if there is none.
        exact: whether that is its own.

    Example:
        >>> print(promise_of("0.10.2"))
        JAX built until 2026-12-17 promises to read it
        >>> print(promise_of("0.12.9", today=datetime.date(2026, 11, 29)))
        JAX built until 2027-04-16 at least promises to read it
        >>> print(promise_of("0.14.0", today=datetime.date(2027, 6, 1)))
        JAX built up to 6 months after jaxlib 0.14.0 promises to read it
    """

    jaxlib: str
    built: datetime.date | None
    exact: bool

    @property
    def rule(self) -> str:
        """The rule, which holds for every version."""
        return (
            f"JAX built up to {MONTHS} months after jaxlib {self.jaxlib}, or up to {WEEKS} weeks "
            "before"
        )

    @property
    def until(self) -> datetime.date | None:
        """The date up to whose releases JAX promises to read it, or an earlier one."""
        return None if self.built is None else _later(self.built)

    def __str__(self) -> str:
        if self.until is None:
            return f"JAX built up to {MONTHS} months after jaxlib {self.jaxlib} promises to read it"
        least = "" if self.exact else " at least"
        return f"JAX built until {self.until.isoformat()}{least} promises to read it"


def promise_of(version: str, today: datetime.date | None = None) -> Promise:
    """What JAX promises of an artifact that a version of jaxlib writes today.

    Args:
        version: of jaxlib.
        today: a bound that has passed says nothing, and is left out; default: today.
    """
    own = _numbers(version)
    known = {_numbers(name): date for name, date in RELEASES.items() if _numbers(name) <= own}
    built = max(known.values(), default=None)
    # 0.12.0.1 is a later build of 0.12.0.
    exact = own in known
    today = today or datetime.date.today()
    if built is not None and not exact and _later(built) < today:
        built = None
    return Promise(version, built, exact)


def _numbers(version: str) -> tuple[int, ...]:
    """0.10.2 -> (0, 10, 2); 0.12.0.1 -> (0, 12, 0, 1)."""
    return tuple(int(n) for n in re.findall(r"\d+", version))


def _later(date: datetime.date) -> datetime.date:
    """The same day six months later, or the last day of that month."""
    years, month = divmod(date.month - 1 + MONTHS, 12)
    last = calendar.monthrange(date.year + years, month + 1)[1]
    return datetime.date(date.year + years, month + 1, min(date.day, last))
