"""Member: a run as it follows from its configuration and some data, and its end."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from fp4jax.data import Cohort, Split
from fp4jax.train import static_scales
from fp4jax.train.best import write_best
from fp4jax.train.config import RunConfig, id_of
from fp4jax.train.devices import Devices
from fp4jax.train.folder import RunFolder
from fp4jax.train.model import Model, by_one, divided
from fp4jax.train.program import Program, parameters
from fp4jax.train.task import Data

# of summary.json
SCHEMA = 3


@dataclasses.dataclass(frozen=True)
class Member:
    """A run: what it is, on which patients, and where it lies.

    Attributes:
        config: of the run.
        split: its patients.
        identity: all that its numbers depend on.
        folder: named by the hash of that.
    """

    config: RunConfig
    split: Split
    identity: dict[str, Any]
    folder: RunFolder

    @property
    def finished(self) -> bool:
        return self.folder.finished


def member_of(config: RunConfig, data: Data, out: Path, split: Split | None = None) -> Member:
    """The run that a configuration is on some data."""
    split = split or data.split(config)
    identity = config.identity(data, split)
    return Member(config, split, identity, RunFolder(out / id_of(config, identity)))


def teacher_of(member: Member, data: Data, out: Path, split: Split | None) -> Member:
    """The baseline run that a student learns from, or that is quantized."""
    return member_of(member.config.teacher(), data, out, split)


def bound(config: RunConfig, data: Data | Cohort) -> Data:
    """Data of a run; a cohort that is in memory becomes that of its task.

    Raises:
        ValueError: a cohort for a task of another kind, or with images of another size.
    """
    if not isinstance(data, Cohort):
        return data
    bind = getattr(config.data, "bind", None)
    if bind is None:
        raise ValueError(f"a cohort is no data of the task {config.data.kind!r}; open its files.")
    return bind(data)


def summarize(
    member: Member,
    program: Program,
    best: tuple[Any, Any],
    data: Data,
    about: dict[str, Any],
    devices: Devices | None = None,
) -> None:
    """Evaluates parameters, keeps them, and writes ``summary.json``; all processes together.

    If the run asks for it, also with static scales: ``static`` in the summary has their scores,
    ``static/`` what scoring leaves, and ``amax.json`` the scales.
    """
    config, folder = member.config.resolved(), member.folder
    if devices is None or devices.first:
        write_best(folder.path, best)
    names = (data.channels, data.regions)
    model = Model(program, *best, *names, devices=divided(data, devices))
    scores = by_one(data, devices, lambda: data.evaluate(model, member.split, folder.path))
    static = {}
    if config.calibrate is not None:
        static = by_one(data, devices, lambda: _static_scores(member, model, data))
    record = config.to_json()
    folder.write_summary(
        {
            "schema": SCHEMA,
            **record,
            "recipe": config.recipe_name,
            "channels": list(data.channels),
            "regions": list(data.regions),
            "parameters": parameters(best[0]),
            **about,
            "device": jax.devices()[0].device_kind,
            **scores,
            **static,
        }
    )
    if devices is not None:
        # All go on when all is written.
        devices.said(None)


def _static_scores(member: Member, model: Model, data: Data) -> dict[str, Any]:
    """``static``: the scores of the model with the static scales that it is calibrated to."""
    folder = member.folder.path
    calibrated = static_scales.calibrated(model, data, member.split.train)
    if model.writes:
        static_scales.write_amaxes(folder, calibrated)
        (folder / static_scales.FOLDER).mkdir(exist_ok=True)
    scores = data.evaluate(calibrated, member.split, folder / static_scales.FOLDER)
    return {"static": {"method": model.config.calibrate, **scores}}
