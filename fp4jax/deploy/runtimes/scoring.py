"""evaluate_on: the scores of a run as a target would compute it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fp4jax.data import Cohort
from fp4jax.deploy.runtimes.emulating import as_on
from fp4jax.deploy.runtimes.rule import Half, Runtime, get_runtime
from fp4jax.deploy.subject import image_shape
from fp4jax.nnx.amax_places import amax_places
from fp4jax.predict.about import about_run
from fp4jax.predict.network import from_module
from fp4jax.predict.packed_evaluation import AsModel
from fp4jax.train import Data, read_trained
from fp4jax.train.evaluation import evaluate_run


def evaluate_on(
    path: str | Path,
    data: Data | Cohort,
    target: str | Runtime,
    *,
    all_patients: bool = False,
    fp8: bool = False,
    half: Half | None = None,
) -> dict[str, Any]:
    """As :func:`fp4jax.train.evaluate_folder`, of the model as a target computes it.

    A run that quantizes x by scales of its own is taken with the static scales (and the threshold)
    of its calibration where the target needs these.

    Args:
        path: of a finished run.
        data: for slices a cohort with images of the run's size, or opened data.
        target: name of a runtime, or one's own.
        all_patients: of the run's own data too, every patient that it has not seen.
        fp8, half: see :func:`as_on`.

    Returns:
        Scores by name, with ``target``, the share of each mode in the multiply-adds (``products``),
        and the type of 16-bit products (``half``) where there are any.

    Raises:
        ValueError: no finished run, one that was not calibrated for a target that needs it, data
            that do not fit, or nothing left to score.
    """
    runtime, path = get_runtime(target), Path(path).expanduser()
    run = read_trained(path, finished=True)
    network = run.model().network()
    if runtime.static and any(not place.spec.given for place in amax_places(network)):
        if "static" not in (run.summary or {}):
            raise ValueError(
                f"{path} was not calibrated, and {runtime.name} takes static scales of x only; "
                "train it with --calibrate max (percentile, mse)."
            )
        run = read_trained(path, finished=True, static=True)
        network = run.model().network()
    about = about_run(run)
    # A batch of one, as scores are computed; rounded to float32 when the data are stored.
    example = jax.ShapeDtypeStruct((1, *image_shape(about)), jnp.float32)
    there, table = as_on(network, runtime, example, fp8=fp8, half=half)
    about = dataclasses.replace(about, recipe=f"{about.recipe} on {runtime.name}")
    model = AsModel(from_module(there, about))
    halves = any(row.mode.units == "16 bits" for row in table.rows)
    return {
        "target": runtime.name,
        "products": table.shares,
        **({"half": half or runtime.half} if halves else {}),
        **evaluate_run(run, model, data, all_patients=all_patients),
    }
