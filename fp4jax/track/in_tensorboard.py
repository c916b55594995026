"""TensorBoard: event files in ``tensorboard/RUN``, which ``tensorboard --logdir`` shows."""

import io
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fp4jax.extras import Extra
from fp4jax.files import read_json, write_json
from fp4jax.track.protocol import Log, State, Tracked, Tracker

_EVENTS = "events.out.tfevents.*"
# What says that a folder has all of a run.
_DONE = "tracked.json"


class TensorBoard(Tracker):
    """Writes event files, by tensorboardX.

    A run that goes on is written anew from ``metrics.jsonl``, in place of its earlier events:
    there is one point for each epoch, also where epochs after a checkpoint were trained again.
    TensorBoard's format has numbers in float32.

    Args:
        target: a folder; default: ``tensorboard`` in ``out``.
        out: the folder of the runs.

    Raises:
        ModuleNotFoundError: tensorboardX is not installed.
    """

    def __init__(self, target: str, out: Path):
        with Extra("track"):
            import tensorboardX  # noqa: F401  # pyright: ignore
        self.folder = Path(target).expanduser() if target else out / "tensorboard"

    def open(self, run: Tracked) -> Log:
        """Begins anew; TensorBoards that look on forget what they have read."""
        folder = self.folder / run.name
        (folder / _DONE).unlink(missing_ok=True)
        return _Events(folder, run.config)

    def has(self, run: Tracked) -> bool:
        """By a file that was written last."""
        return read_json(self.folder / run.name / _DONE) is not None


class _Events(Log):
    def __init__(self, folder: Path, config: Mapping[str, Any]):
        from tensorboardX import SummaryWriter  # pyright: ignore

        old = list(folder.glob(_EVENTS))
        self._folder, self._config = folder, dict(config)
        # A writer's name is made of the time in seconds.
        self._writer = SummaryWriter(
            str(folder), purge_step=0, filename_suffix=f".{uuid.uuid4().hex[:8]}"
        )
        self._writer.add_text("configuration", f"```\n{json.dumps(self._config, indent=2)}\n```")
        self._writer.flush()
        for path in old:
            path.unlink()

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def scores(self, epoch: int, values: Mapping[str, float]) -> None:
        from tensorboardX.summary import hparams  # pyright: ignore

        self.scalars(epoch, values)
        plain = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in self._config.items()
        }
        writer: Any = self._writer.file_writer
        for part in hparams(plain, dict(values)):
            writer.add_summary(part)

    def picture(self, name: str, png: bytes) -> None:
        with Extra("study"):
            import numpy as np
            from PIL import Image

        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, self.epoch, dataformats="HWC")

    def close(self, state: State) -> None:
        self._writer.close()
        if state == "finished":
            write_json(self._folder / _DONE, {"state": state, "epochs": self.epoch})
