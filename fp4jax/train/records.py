"""Configurations in files: as they are written now, and as earlier versions wrote them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fp4jax import plugins
from fp4jax.ops.recipe import Recipe
from fp4jax.train.config import RunConfig
from fp4jax.train.slices import Slices
from fp4jax.train.task import Task, get_task
from fp4jax.train.volumes import Volumes

# Fields that were of a run and are of its data now.
_MOVED = {"data": "cohort"}


def from_json(record: Mapping[str, Any]) -> RunConfig:
    """The configuration in a ``config.json``, of this version or of an earlier one.

    Keys that are no fields are left out: a run is readable after a field was dropped.

    Raises:
        ValueError: no configuration, or one of a task or recipe that is not registered.

    Example:
        >>> run = RunConfig(arch="cnn", recipe="full", seed=1)
        >>> from_json(run.to_json()) == run
        True
        >>> from_json({"arch": "cnn", "data": "lgg", "image_size": 128, "augment": True}).data.name
        'lgg'
    """
    values = dict(record.get("config", record))
    # What the run's own modules registered may be what it names.
    plugins.load(values.get("plugins", ()))
    if "arch" not in values:
        raise ValueError("this is no configuration of a run: it names no architecture.")
    if not isinstance(values.get("data"), Mapping):
        values["data"] = _earlier(values)
    values["data"] = task_of(values["data"])
    if isinstance(values.get("recipe"), Mapping):
        values["recipe"] = Recipe.from_json(values["recipe"])
    if values.get("weights") is not None:
        values["weights"] = Path(values["weights"])
    return RunConfig(**_fields(RunConfig, values))


def is_earlier(record: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of a version that kept no split."""
    return "config" not in record


def _earlier(values: dict[str, Any]) -> dict[str, Any]:
    """The data part of a flat record, which is what version 0.1 wrote."""
    task = Volumes if "patch_size" in values else Slices
    names = {field.name for field in dataclasses.fields(task)}
    part = {_MOVED.get(name, name): value for name, value in values.items()}
    # The checkpoint that it started from is not needed to read it.
    values.pop("weights", None)
    return {"kind": task.kind, **{name: v for name, v in part.items() if name in names}}


def task_of(record: Mapping[str, Any]) -> Task:
    """The ``data`` of a configuration.

    Raises:
        ValueError: a task that is not registered.
    """
    task = get_task(record["kind"])
    return task(**_fields(task, record))


def _fields(of: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(of)}
    return {name: tuples(value) for name, value in record.items() if name in names}


def tuples(value: Any) -> Any:
    """JSON has lists where a configuration has tuples."""
    if isinstance(value, Mapping):
        return {name: tuples(item) for name, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value
