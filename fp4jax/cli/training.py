"""A training as a command has it done, here or in processes that a cluster starts."""

import dataclasses
import sys
from pathlib import Path

from fp4jax.cli.track_options import TrackOptions
from fp4jax.predict.pictures import Pictures, is_synthetic
from fp4jax.train import Devices, Listeners, Options, RunConfig, RunFolder, Saving, Source, train


@dataclasses.dataclass(frozen=True)
class Training:
    """Runs that are trained together; can be sent to other processes, which open the data.

    Attributes:
        config: of the runs.
        source: of the data.
        out: the runs' folders lie in here.
        seeds: a run each.
        saving: when checkpoints are written.
        pictures: draw what was found in the test patients.
        wait: seconds to wait for runs that another process trains; None: without end.
        tracking: where runs are shown; of several processes the first one does.
    """

    config: RunConfig
    source: Source
    out: Path
    seeds: tuple[int, ...]
    saving: Saving
    pictures: bool
    wait: float | None
    tracking: TrackOptions = dataclasses.field(default_factory=TrackOptions)

    def __call__(self, devices: Devices | None) -> list[RunFolder]:
        """Trains what is open; on all of these devices, if several share a batch."""
        if devices is not None and devices.first:
            print(f"training on {devices}", file=sys.stderr, flush=True)
        first = devices is None or devices.first
        tracking = self.tracking if first else TrackOptions()
        with tracking.listeners(self.out, is_synthetic(self.config.data)) as trackers:
            pictures = Pictures(self.pictures, self.source if self.pictures else None)
            options = Options(
                listener=Listeners([pictures, *trackers]),
                saving=self.saving,
                wait=self.wait,
                devices=devices,
            )
            data = self.config.data.open(self.source)
            return train(self.config, data, self.out, self.seeds, options=options)
