"""Tracking: the listener that shows runs in a tracker; what goes wrong with that stops no run."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fp4jax.files import finite
from fp4jax.predict.pictures import pictures_of
from fp4jax.track.protocol import State, Tracked, Tracker
from fp4jax.track.registry import tracker
from fp4jax.track.sender import Sender
from fp4jax.track.shown import Shown
from fp4jax.track.values import flat, scores
from fp4jax.train.folder import RunFolder
from fp4jax.train.listeners import Listener, Listeners

#: Seconds that a command waits at its end for a tracker that has not taken all.
PATIENCE = 60.0
_LOCKS = ".tracking"


class Tracking(Listener):
    """Shows runs in a tracker: numbers of each epoch, configuration, final scores, pictures.

    Runs may go side by side; each has a log of its own. The tracker works in a thread of its own,
    so that no step waits for it. What it could not take is offered again with the next epoch, and
    at the end of the run from ``metrics.jsonl``.

    Args:
        name: of the tracker, in messages.
        tracker: where runs are shown.
        pictures: of what was found in test patients, too.
        locks: a folder by which processes that share runs see which of them tells of one.

    Example:
        >>> import tempfile
        >>> from fp4jax.track import Log
        >>> from fp4jax.train import RunConfig
        >>> class Kept(Tracker, Log):
        ...     def open(self, run):
        ...         return self
        ...
        ...     def scalars(self, epoch, values):
        ...         print(epoch, values)
        >>> tracking = Tracking("kept", Kept())
        >>> with tempfile.TemporaryDirectory() as root:
        ...     tracking.starts(RunConfig(arch="cnn"), Path(root) / "cnn_4m")
        ...     tracking.epoch("cnn_4m", {"epoch": 1, "val_auprc": 0.5})
        ...     tracking.close()
        1 {'val_auprc': 0.5}
    """

    def __init__(
        self, name: str, tracker: Tracker, pictures: bool = True, locks: Path | None = None
    ):
        self.name, self.tracker, self.pictures = name, tracker, pictures
        self._sender = Sender(f"tracker {name}")
        self._runs: dict[str, Shown] = {}
        self._locks = locks

    def starts(self, run: Any, folder: Path) -> None:
        """Opens a log, and tells it of the epochs before."""
        shown = self._runs[folder.name] = self._shown(run, folder)
        history = RunFolder(folder).history()
        self._sender(lambda: shown.epochs(history))

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        """Tells what the epoch's line in ``metrics.jsonl`` has."""
        shown = self._runs.get(run)
        if shown is not None:
            self._sender(lambda: shown.epochs([finite(record)]))

    def ended(self, run: Any, summary: dict[str, Any] | None, folder: Path) -> None:
        """Tells the scores, and whatever is missing of a run that was trained elsewhere."""
        known = self._runs.pop(folder.name, None)
        if summary is None:
            if known is not None:
                state: State = "failed" if RunFolder(folder).failed else "interrupted"
                self._sender(lambda: known.leave(state))
            return

        def tell() -> None:
            shown = known or self._shown(run, folder)
            shown.finish(RunFolder(folder).history(), scores(summary), pictures)

        pictures = _pictures(folder, summary) if self.pictures else dict
        self._sender(tell)

    def _shown(self, run: Any, folder: Path) -> Shown:
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        lock = None if self._locks is None else self._locks / f"{folder.name}.{digest}.lock"
        return Shown(self.tracker, _tracked(run, folder), lock)

    def close(self) -> None:
        """Closes what is open, and waits until the tracker has all, :data:`PATIENCE` at most."""
        for shown in self._runs.values():
            self._sender(lambda shown=shown: shown.leave("interrupted"))
        self._runs.clear()
        left = self._sender.close(PATIENCE)
        if self._sender.is_stuck:
            raise TimeoutError(f"it took no answer in {PATIENCE:g} s, {left} calls are not made")
        self._sender.check()


@contextlib.contextmanager
def tracking(specs: Sequence[str], out: Path, pictures: bool = True) -> Iterator[list[Listener]]:
    """Listeners for the trackers that a command line names; at the end they are closed.

    Args:
        specs: such as ``tensorboard``, ``mlflow:http://host:5000``, ``wandb:PROJECT``.
        out: what the trackers write to files goes here.
        pictures: show what was found in test patients, too.

    Raises:
        ValueError: an unknown tracker, or one that is named twice.
        ModuleNotFoundError: its package is not installed.

    Example:
        >>> with tracking([], Path("runs")) as listeners:
        ...     listeners
        []
    """
    if len(set(specs)) < len(specs):
        raise ValueError(f"track is {', '.join(specs)}; name each tracker once.")
    shown = [Tracking(spec, tracker(spec, out), pictures, out / _LOCKS) for spec in specs]
    try:
        # One for all, since each warns once.
        yield [Listeners(shown)] if shown else []
    finally:
        for one in shown:
            try:
                one.close()
            except Exception as error:
                warnings.warn(
                    f"tracker {one.name} may lack some of what was found: "
                    f"{type(error).__name__}: {error}. Repeat the command to send it again.",
                    RuntimeWarning,
                    stacklevel=3,
                )


def _tracked(run: Any, folder: Path) -> Tracked:
    """A run with all that its numbers depend on."""
    identity = RunFolder(folder).config() or {}
    config = identity.pop("config", None) or run.to_json()
    parts = (run.arch, run.scale, run.recipe_name, run.method, run.data.name)
    return Tracked(folder.name, folder, flat({**config, **identity}), " ".join(parts))


def _pictures(folder: Path, summary: dict[str, Any]) -> Callable[[], dict[str, bytes]]:
    return lambda: pictures_of(folder, summary)
