"""Draws: the bootstrap's of each label, made once, however often it is compared."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fp4jax.analysis import stats
from fp4jax.analysis.by_patient import patient_scores

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

#: architecture, scale, label
Key = tuple[str, str, str]
#: split, seed
Part = tuple[str, int]


class Draws:
    """Bootstrap draws of the runs of each label.

    The scores of the label that was asked for last alone are kept: those of thousands of runs would
    fill the memory.

    Args:
        results: finished runs.
        resamples: number of draws.
    """

    def __init__(self, results: "Sequence[RunResult]", resamples: int):
        self._runs: dict[Key, list[RunResult]] = {}
        for run in results:
            key = run.config.arch, run.config.scale, run.label
            self._runs.setdefault(key, []).append(run)
        self._resamples = resamples
        self._known: dict[tuple[Key, tuple[Part, ...]], stats.Resampled] = {}
        self._parts: dict[Key, tuple[Part, ...]] = {}
        self._last: tuple[Key, Mapping[Part, Any]] | None = None

    def scores(self, key: Key) -> Mapping[Part, Any]:
        """Of the label's runs that have scores, in order."""
        if self._last is None or self._last[0] != key:
            self._last = None  # before the next ones are read
            found = {
                (run.config.split, run.config.seed): patient_scores(run)
                for run in self._runs.get(key, ())
            }
            own = {part: found[part] for part in sorted(found) if found[part] is not None}
            self._last, self._parts[key] = (key, own), tuple(own)
        return self._last[1]

    def parts(self, key: Key) -> tuple[Part, ...]:
        """Splits and seeds of the label's runs that have scores."""
        if key not in self._parts:
            self.scores(key)
        return self._parts[key]

    def of(self, key: Key, parts: tuple[Part, ...]) -> stats.Resampled:
        """The draws of some of the label's runs: a baseline's serve all differences to it."""
        if (key, parts) not in self._known:
            scores = self.scores(key)
            own = stats.Resampled([scores[part] for part in parts], self._resamples)
            self._known[key, parts] = own
        return self._known[key, parts]
