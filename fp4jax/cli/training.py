"""A training as a command has it done, here or in processes that a cluster starts."""

import dataclasses
import sys
from pathlib import Path

from fp4jax.predict.pictures import Pictures
from fp4jax.train import Devices, Options, RunConfig, RunFolder, Saving, Source, train


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
    """

    config: RunConfig
    source: Source
    out: Path
    seeds: tuple[int, ...]
    saving: Saving
    pictures: bool
    wait: float | None

    def __call__(self, devices: Devices | None) -> list[RunFolder]:
        """Trains what is open; on all of these devices, if several share a batch."""
        if devices is not None and devices.first:
            print(f"training on {devices}", file=sys.stderr, flush=True)
        options = Options(
            listener=Pictures(self.pictures, self.source if self.pictures else None),
            saving=self.saving,
            wait=self.wait,
            devices=devices,
        )
        data = self.config.data.open(self.source)
        return train(self.config, data, self.out, self.seeds, options=options)
