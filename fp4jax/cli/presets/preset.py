"""Preset: a study by name, its data, and what it should find."""

import dataclasses
from collections.abc import Callable

from fp4jax.study import Expectation, Study
from fp4jax.train import Source


@dataclasses.dataclass(frozen=True)
class Preset:
    """What ``fp4jax study NAME`` starts from.

    Attributes:
        study: the runs.
        source: where the data lie; for most sets this is for the user to say.
        expected: what the study should find.
        prepare: makes data that are not there: is given the source and returns it with a root. Such
            data are synthetic, and their pictures may be shown to anyone.
    """

    study: Study
    source: Source = dataclasses.field(default_factory=Source)
    expected: tuple[Expectation, ...] = ()
    prepare: Callable[[Source], Source] | None = None
