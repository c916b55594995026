"""Work: what an engine is given."""

import dataclasses
from collections.abc import Iterator, Sequence

from fp4jax.study.lanes import lanes
from fp4jax.study.worker import State, Worker
from fp4jax.train.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Work:
    """The groups of a study, and what trains parts of them in this process.

    Attributes:
        groups: runs that differ in split and seed alone, in the order in which they are trained:
            with what they start from before them, where the study has it.
        worker: trains a part, here; knows what is open, and where.
        max_lanes: most runs that an accelerator trains side by side.
    """

    groups: Sequence[Sequence[RunConfig]]
    worker: Worker
    max_lanes: int

    def parts(self) -> Iterator[list[RunConfig]]:
        """What this process trains at a time, with something open in it, in order.

        Each is found when it is asked for, since the lanes that fit an accelerator are.
        """
        for group in self.groups:
            if any(map(self.worker.is_open, group)):
                yield from lanes(group, self.worker.data, self.max_lanes)

    def train(self, part: Sequence[RunConfig]) -> State:
        """Trains what is open of a part, in this process; see :class:`Worker`."""
        return self.worker(part)
