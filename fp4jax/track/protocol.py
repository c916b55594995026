"""Tracker: the protocol. A tracker opens a log for each run, which is told of its epochs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

#: How a run ended; an interrupted one may go on.
State = Literal["finished", "failed", "interrupted"]


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A run as trackers know it.

    Attributes:
        name: its id, the name of its folder.
        folder: of the run.
        config: what its numbers depend on, flat: ``{"arch": "swin", "data.cohort": "lgg", ...}``.
        group: what it shares with runs of other splits and seeds.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    group: str = ""


class Log:
    """What a tracker has of one run; this one keeps nothing. Derive from it.

    Calls come in order, from one thread, which is not the one that trains: they may take their
    time. One that raises is repeated with the next epoch; a run goes on in any case.

    Attributes:
        epoch: the last epoch that it has. Epochs up to it are not told again, so that a log that
            remembers them goes on where it was; one that begins anew is told all from the first.
    """

    epoch: int = 0

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch ended.

        Args:
            epoch: its number, from 1.
            values: the numbers of its line in ``metrics.jsonl``, by the same names.
        """

    def scores(self, epoch: int, values: Mapping[str, float]) -> None:
        """The run was evaluated.

        Args:
            epoch: its last one; 0 if nothing was trained.
            values: ``test_auprc``, ``best_val_auprc``, ``threshold`` and so on.
        """

    def picture(self, name: str, png: bytes) -> None:
        """A picture of what the run found in test patients.

        Args:
            name: "predictions", or "pictures/CASE".
            png: the bytes of a PNG file.
        """

    def close(self, state: State) -> None:
        """Nothing more comes from this process."""


class Tracker:
    """Where runs are shown; this one shows nothing. Derive from it, and register it.

    Example:
        >>> class Console(Tracker):
        ...     def open(self, run):
        ...         return ConsoleLog()
        >>> class ConsoleLog(Log):
        ...     def scalars(self, epoch, values):
        ...         print(epoch, values["train_loss"])
        >>> log = Console().open(Tracked("cnn_4m", Path("runs/cnn_4m"), {}))
        >>> log.scalars(1, {"train_loss": 0.5})
        1 0.5
    """

    def open(self, run: Tracked) -> Log:
        """The log of a run that starts, or goes on."""
        return Log()

    def has(self, run: Tracked) -> bool:
        """Whether it has all of a finished run: such a run is not told again.

        Asked of runs that were finished before this process.
        """
        return False
