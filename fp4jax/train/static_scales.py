"""A trained model with static scales of x: calibrated on training examples, kept beside the run."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fp4jax import nnx as fp4nnx
from fp4jax.core.typing import Array
from fp4jax.data.progress import track
from fp4jax.files import read_json, write_json
from fp4jax.nnx.amax_places import amax_places
from fp4jax.train.config import RunConfig
from fp4jax.train.model import Model
from fp4jax.train.program import program_of, split
from fp4jax.train.task import Data

#: In the folder of a run; and the folder in it with what the scores of static scales leave.
FILE, FOLDER = "amax.json", "static"


def calibrated(model: Model, data: Data, patients: Sequence[str]) -> Model:
    """The model with static scales, as its run asks for: from training examples, not augmented.

    Args:
        model: with its own scales.
        data: of the run.
        patients: whom it was trained on.

    Raises:
        ValueError: a layer that the examples do not reach, or values that are not finite.
    """
    config, network = model.config, model.network()
    batches = track(
        inputs(config, data, patients),
        "Calibrating",
        total=min(config.calibration_batches, data.feed(config, patients, config.seed).steps),
    )
    method: Any = config.calibrate
    # Kept, since some methods read them twice.
    fp4nnx.calibrate(network, list(batches), method)
    return with_amaxes(model, fp4nnx.static_amaxes(network))


def inputs(config: RunConfig, data: Data, patients: Sequence[str]) -> Iterator[Array]:
    """What the network sees of the first batches of the first epoch, not augmented."""
    batches: Any = data.feed(config, patients, config.seed).batches(1)
    with contextlib.closing(batches):  # ends the workers that make more
        for examples in itertools.islice(batches, config.calibration_batches):
            yield config.data.inputs(jnp.asarray(examples.images))


def with_amaxes(model: Model, amaxes: Mapping[str, Any]) -> Model:
    """A model with these static amaxes of x, by the layers' paths.

    Raises:
        ValueError: amaxes of other layers, or not of all.
    """
    network = model.network()
    paths = [place.path for place in amax_places(network)]
    if missing := [path or "(model)" for path in paths if path not in amaxes]:
        raise ValueError(
            f"there is no static amax of {', '.join(missing)}: the run was calibrated by an "
            "earlier version, or with another recipe; train it again with calibrate."
        )
    network = fp4nnx.set_static_amaxes(network, amaxes)
    channels, regions = len(model.channels), len(model.regions)
    program = program_of(model.config, channels, regions, static=True)
    _, params, stats, _ = split(network)
    return dataclasses.replace(model, program=program, params=params, stats=stats)


def write_amaxes(folder: Path, model: Model) -> None:
    """Keeps the static amaxes of a model, as JSON: float32 numbers survive it."""
    amaxes = fp4nnx.static_amaxes(model.network())
    config = model.config
    write_json(
        folder / FILE,
        {
            "method": config.calibrate,
            "batches": config.calibration_batches,
            "batch_size": config.batch_size,
            "amax": {path: np.asarray(amax).tolist() for path, amax in amaxes.items()},
        },
    )


def read_amaxes(folder: Path) -> dict[str, Any]:
    """What :func:`write_amaxes` kept, by the layers' paths.

    Raises:
        ValueError: the run was not calibrated.
    """
    record = read_json(folder / FILE)
    if record is None:
        raise ValueError(f"{folder} has no {FILE}: the run was not calibrated (--calibrate max).")
    return record["amax"]
