"""Operands with a static amax: set and read by path."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from fp4jax.core.typing import Array, Float
from fp4jax.nnx.amax_places import AmaxPlace, amax_places, with_static
from fp4jax.nnx.amax_variables import CalibratedAmax
from fp4jax.nnx.keys import Model


def set_static(
    place: AmaxPlace, amax: Float[Array, "*stack"], watch: nnx.Module | None = None
) -> None:
    """From now on the operand is quantized by this amax, or by what ``watch`` makes of it."""
    recipe = with_static(place.operation.recipe, place.operand)
    place.set(recipe, CalibratedAmax(jnp.asarray(amax, jnp.float32)), watch)


def static_amaxes(model: nnx.Module) -> dict[str, Array]:
    """The static or learned amax of x of each layer that has one, by its path.

    Of attention those of q, k, P and v, as "encoder.attn.attention.q", ".k", ".p" and ".v".

    Raises:
        ValueError: for anything but an NNX model.

    Example:
        >>> from fp4jax.nnx import apply_recipe, calibrate
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> static_amaxes(layer)
        {}
        >>> static_amaxes(calibrate(layer, [jnp.full((2, 16), 3.0)]))
        {'': Array(3., dtype=float32)}
    """
    found = {place.path: place.amax for place in amax_places(model)}
    return {path: amax.get_value() for path, amax in found.items() if amax is not None}


def set_static_amaxes(model: Model, amaxes: Mapping[str, Any]) -> Model:
    """Gives x of layers the static amaxes that another model was calibrated to.

    Args:
        model: with a recipe applied; changed in place.
        amaxes: number, or an array for a stack of layers, by the layer's path, as
            :func:`static_amaxes` returns them.

    Returns:
        The model.

    Raises:
        ValueError: paths of no layer that quantizes x, an array of another shape than its stack,
            or a number that is negative, NaN or Inf.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> set_static_amaxes(layer, {"": 3.0}).dot_general.recipe.name
        'full+static'
    """
    found = {place.path: place for place in amax_places(model)}
    if unknown := sorted(set(amaxes) - set(found)):
        raise ValueError(
            f"amaxes are given for {', '.join(unknown)}, which quantize no x in this model; its "
            f"layers that do are: {', '.join(found)}."
        )
    arrays = {path: jnp.asarray(amax, jnp.float32) for path, amax in amaxes.items()}
    for path, amax in arrays.items():
        if amax.shape != found[path].stack:
            raise ValueError(
                f"the amax of {path or '(model)'} has shape {amax.shape}, its stack of layers has "
                f"{found[path].stack}."
            )
        given = amaxes[path]
        # NumPy's arithmetic: under jit jax.numpy's would be traced.
        if not isinstance(given, Tracer) and not np.all(
            np.isfinite(given) & (np.array(given) >= 0)
        ):
            raise ValueError(
                f"the amax of {path or '(model)'} is {given}; give non-negative, finite numbers."
            )
    for path, amax in arrays.items():
        set_static(found[path], amax)
    return model


def expect_static(model: Model) -> Model:
    """Makes a place, 0, for a static amax of x in every layer that quantizes it by its own.

    For models whose amaxes are then restored, as ``nnx.eval_shape`` makes one to read a checkpoint.

    Returns:
        The model, changed in place.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> float(expect_static(layer).dot_general.amax[...])
        0.0
    """
    for place in amax_places(model):
        if not place.spec.given or place.amax is None:
            set_static(place, jnp.zeros(place.stack))
    return model
