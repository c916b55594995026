"""Weights & Biases: a run for each run; offline, unless the environment says otherwise."""

import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fp4jax.extras import Extra
from fp4jax.files import read_json, write_json
from fp4jax.track.protocol import Log, State, Tracked, Tracker


class Wandb(Tracker):
    """Writes to Weights & Biases: history, configuration, summary, pictures.

    Nothing leaves the machine unless ``WANDB_MODE`` says so (``online``): files are written to
    ``wandb`` in ``out``, and ``wandb sync`` uploads them when it is called. A run that goes on
    keeps its id. Its files that were not uploaded are written anew, from ``metrics.jsonl``: what a
    killed process had not written yet is not missed. W&B cannot take a point back; so of a run
    that is online, or was uploaded, ``wandb/epochs`` has the last epoch, and only later ones are
    sent.

    Args:
        target: PROJECT or ENTITY/PROJECT; default: ``WANDB_PROJECT``, else ``fp4jax``.
        out: the folder of the runs.

    Raises:
        ValueError: a target of more than two parts.
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(self, target: str, out: Path):
        # Reports of its errors would go to its makers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        with Extra("track"):
            import wandb  # noqa: F401  # pyright: ignore
        *entity, project = (target or os.environ.get("WANDB_PROJECT", "fp4jax")).split("/")
        if len(entity) > 1 or not project:
            raise ValueError(
                f"track is wandb:{target}; give wandb:PROJECT or wandb:ENTITY/PROJECT."
            )
        self.entity, self.project, self.out = (entity[0] if entity else None), project, out

    def open(self, run: Tracked) -> Log:
        """The W&B run with the id, or a new one."""
        import wandb  # pyright: ignore

        self.out.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        parts = parts_of(self.out, run.name)
        uploaded = any(next(part.glob("*.synced"), None) for part in parts)
        anew = mode == "offline" and not uploaded
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        own = wandb.init(
            entity=self.entity,
            project=self.project,
            dir=str(self.out),
            id=run.name,
            name=run.name,
            group=run.group or None,
            config=dict(run.config),
            mode=mode,  # pyright: ignore
            resume="allow",
            # Several runs of a process at a time.
            reinit="create_new",
            settings=settings,
        )
        for part in parts if anew else ():
            # W&B names a part by the second: one that began just now may have the same name.
            if part.absolute() != Path(own.dir).absolute().parent:
                shutil.rmtree(part, ignore_errors=True)
        return _Run(own, self._record(run), anew)

    def has(self, run: Tracked) -> bool:
        """By what was kept of it."""
        return (read_json(self._record(run)) or {}).get("state") == "finished"

    def _record(self, run: Tracked) -> Path:
        project = "_".join(filter(None, (self.entity, self.project)))
        return self.out / "wandb" / "epochs" / project / f"{run.name}.json"


def parts_of(out: Path, name: str) -> list[Path]:
    """The folders of a run's offline parts; those of the same second have a number behind.

    Example:
        >>> parts_of(Path("nowhere"), "cnn_4m")
        []
    """
    found = (out / "wandb").glob(f"offline-run-*-{name}*")
    behind = re.compile(rf"offline-run-\w+-{re.escape(name)}(-\d+)?")
    return sorted(path for path in found if behind.fullmatch(path.name))


class _Run(Log):
    def __init__(self, run: Any, record: Path, anew: bool):
        self._run, self._record = run, record
        kept = 0 if anew else (read_json(record) or {}).get("epoch", 0)
        # Online, the server knows: the next step of a run that goes on.
        self.epoch = 0 if anew else max(kept, run.step - 1)
        record.parent.mkdir(parents=True, exist_ok=True)

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=epoch, commit=True)
        write_json(self._record, {"epoch": epoch})

    def scores(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def picture(self, name: str, png: bytes) -> None:
        import wandb  # pyright: ignore

        with Extra("study"):
            from PIL import Image

        with Image.open(io.BytesIO(png)) as image:
            # After the last epoch: its points are written.
            self._run.log({name: wandb.Image(image.convert("RGB"))}, step=self.epoch + 1)

    def close(self, state: State) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)
        write_json(self._record, {"epoch": self.epoch, "state": state})
