"""Where runs are shown beside their folders, as options of the command line."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import tyro

from fp4jax.track import tracking
from fp4jax.train import Listener


@dataclasses.dataclass(frozen=True)
class TrackOptions:
    """Trackers; no number of a run depends on them, nor its id."""

    # show runs in tensorboard, mlflow:URI, wandb:PROJECT (offline, unless WANDB_MODE says
    # otherwise), or what a plug-in registered; several may be named
    track: tuple[str, ...] = ()
    # show no pictures of test patients there
    no_pictures: tyro.conf.FlagCreatePairsOff[bool] = False

    @contextlib.contextmanager
    def listeners(self, out: Path, synthetic: bool) -> Iterator[list[Listener]]:
        """Listeners for the trackers, which are closed at the end.

        Args:
            out: folder of the runs, or of the study.
            synthetic: the patients are not real.
        """
        pictures = not self.no_pictures
        with tracking(self.track, out, pictures) as listeners:
            if listeners and pictures and not synthetic:
                names = ", ".join(self.track)
                print(
                    f"{names} will get pictures of test patients; --no-pictures leaves them out.",
                    file=sys.stderr,
                )
            yield listeners
