"""Following: what the processes of a training do where the first one locks and writes."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fp4jax.train.devices import Devices, agreed
from fp4jax.train.folder import RunFolder
from fp4jax.train.lock import Held, held

# Seconds until a folder that one host has made is seen by the others.
_SEEN = 10.0
# What an identity has as a hash.
_NAMED = {"digest": "the data differ", "split_sha256": "the patients differ"}
# Differences of which is spoken.
_SAID = 3


class FollowedFolder(RunFolder):
    """The folder of a run in a process that writes nothing into it: another one does."""

    def create(
        self,
        config: dict[str, Any],
        split: dict[str, Any] | None = None,
        environment: dict[str, Any] | None = None,
    ) -> None:
        """Left to the first process, as all that follows."""

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Not written."""

    def write_failure(self, error: BaseException) -> None:
        """Not written."""

    def clear_failure(self) -> None:
        """Not cleared."""

    def start_history(self, epoch: int) -> None:
        """Not written."""

    def append(self, record: dict[str, Any]) -> None:
        """Not written."""


class Followed:
    """The lock that the first process has, in another one."""

    def report(self, folder: Path, **about: Any) -> None:
        """Left to the first process."""

    def check(self) -> None:
        """Left to the first process."""


@contextlib.contextmanager
def held_by_first(
    devices: Devices | None, *folders: Path, wait: float | None
) -> Iterator[Held | Followed]:
    """As :func:`fp4jax.train.lock.held`; of several processes the first one has the lock."""
    with contextlib.ExitStack() as stack:
        if devices is None:
            yield stack.enter_context(held(*folders, wait=wait))
            return
        own: list[Held] = []
        devices.by_first(lambda: own.append(stack.enter_context(held(*folders, wait=wait))))
        yield own[0] if own else Followed()


def created(devices: Devices | None, create: Callable[[], None], folder: Path) -> None:
    """Makes a run's folder in the first process, and has the others see it.

    Raises:
        ValueError: the folder holds another run, or the processes do not see the same folder.
    """
    if devices is None:
        create()
        return
    devices.by_first(create)
    deadline = time.monotonic() + _SEEN
    while not (seen := (folder / "config.json").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    blind = [str(i) for i, sees in enumerate(devices.all(seen)) if not sees]
    if blind:
        raise agreed(
            ValueError(
                f"the first process has made {folder}, which process {', '.join(blind)} does not "
                "see; give a folder that all hosts share."
            )
        )


def check_asked(devices: Devices, runs: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError if a process is to train other runs than the first one.

    Args:
        devices: of the processes.
        runs: of their identities what counts, :func:`fp4jax.train.config.counted`.
    """
    first, *others = devices.all(list(runs))
    for i, other in enumerate(others, start=1):
        if other != first:
            raise agreed(
                ValueError(
                    f"process {i} would train other runs than the first ({_differing(other, first)}"
                    "); repeat the same command on all hosts, with the same data and the same "
                    "version of fp4jax."
                )
            )


def _differing(runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]) -> str:
    """In words what differs between two lists of identities."""
    if len(runs) != len(first):
        return f"{len(runs)} of them, not {len(first)}"
    pairs = ((dict(_parts(a)), dict(_parts(b))) for a, b in zip(runs, first, strict=True))
    own, other = next((a, b) for a, b in pairs if a != b)
    names = [name for name in {**other, **own} if own.get(name) != other.get(name)]
    said = [_NAMED.get(n) or f"{n} is {own.get(n)}, not {other.get(n)}" for n in names]
    return "; ".join(said[:_SAID])


def _parts(record: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a record and of those within it, by names such as ``data.image_size``."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _parts(value, "" if name == "config" else f"{of}{name}.")
        else:
            yield of + name, value


def check_same(devices: Devices, tree: Any) -> None:
    """Raises RuntimeError if processes would begin with other numbers than the first."""
    own = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        own.update(np.asarray(leaf).tobytes())
    digests = devices.all(own.digest())
    differing = [str(i) for i, other in enumerate(digests) if other != digests[0]]
    if differing:
        raise agreed(
            RuntimeError(
                f"process {', '.join(differing)} would begin with other parameters than the first: "
                "hosts differ in hardware or versions, or saw another checkpoint. Use equal hosts, "
                "or repeat the command."
            )
        )
