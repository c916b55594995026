"""The local engine: one part after the other, in this process, sharing with others by locks."""

import dataclasses
import logging
import time

from fp4jax.study.engines.work import Work
from fp4jax.train.status import STALE

_LOG = logging.getLogger(__name__)
# Seconds between two looks at runs that other processes train.
_POLL = 1.0


@dataclasses.dataclass(frozen=True)
class Local:
    """Trains what no other process does, then waits for these, and takes over from dead ones.

    With ``wait`` it is one worker of many, which leaves when there is nothing to do for it: runs
    that others train are theirs, and it stays ``wait`` seconds only, in which it would see that one
    of these processes is dead. For runs whose baseline another process trains it stays as long as
    that lives: they come next, and others could have taken them by then.

    Attributes:
        wait: seconds after which it leaves while others train all that is left; more than those
            after which a silent process counts as dead. None: it stays until nothing is left.
    """

    wait: float | int | None = None

    def __post_init__(self):
        if self.wait is not None and not self.wait > STALE:
            raise ValueError(
                f"wait is {self.wait}; give more than {STALE:g} seconds, after which a process "
                "that is silent counts as dead, or None to stay until the end."
            )

    def __call__(self, work: Work) -> None:
        left = [part for part in work.parts() if work.train(part) != "done"]
        if left:
            count = sum(work.worker.is_open(run) for part in left for run in part)
            until = "" if self.wait is None else f", {self.wait:g} s at most after the last change"
            _LOG.warning("Waiting for other processes, which train %d runs%s.", count, until)
        changed = time.monotonic()
        while left:
            time.sleep(_POLL)
            states = [(part, work.train(part)) for part in left]
            before, left = len(left), [part for part, state in states if state != "done"]
            if len(left) < before or any(state == "waiting" for _, state in states):
                changed = time.monotonic()
            elif self.wait is not None and time.monotonic() - changed > self.wait:
                _LOG.warning("Others train what is left (%d parts); nothing to do here.", before)
                return
