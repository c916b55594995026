"""Static scales that follow the training: running_amax(model, ...), update_amax(model)."""

import math
from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx

from fp4jax.core.spec import is_number, shown
from fp4jax.nnx.amax_places import amax_places
from fp4jax.nnx.keys import Model
from fp4jax.nnx.packed_operations import PackedOp
from fp4jax.nnx.static_x import set_static
from fp4jax.nnx.watches import AmaxWatch, AverageAmax, DelayedAmax


def running_amax(model: Model, memory: int | float) -> Model:
    """Gives x of every quantized layer a static amax that follows the steps of a training.

    In a step x is quantized by the amax of earlier steps, as TransformerEngine's delayed scaling
    does, and by its own in the first one. With ``seen`` the largest amax of a step,

        memory = d < 1    amax = d amax + (1 - d) seen
        memory = n >= 1   amax = the largest seen in the last n steps

    What exceeds it is clamped to it; the gradient passes straight through. In evaluation mode
    (``model.eval()``) the last value is used and nothing is noted. Works wherever the running
    statistics of ``nnx.BatchNorm`` do: also in ``nnx.scan``, ``nnx.vmap`` and ``nnx.remat``.

    Args:
        model: with a recipe applied; changed in place. Layers whose x is not quantized, or whose
            amax is learned, stay as they are.
        memory: the decay of an average, above 0 and below 1, or a whole number of steps.

    Returns:
        The model. Call :func:`update_amax` after each step.

    Raises:
        ValueError: another memory, a packed model, or no layer that quantizes x.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> layer = running_amax(layer, 0.75)
        >>> for size in (4.0, 8.0):
        ...     y = layer(jnp.full((2, 16), size))
        ...     layer = update_amax(layer)
        >>> float(layer.dot_general.amax[...])
        5.0
    """
    check_memory("memory", memory)
    memory = float(memory) if memory < 1 else int(memory)
    if any(isinstance(place.operation, PackedOp) for place in amax_places(model)):
        raise ValueError(
            f"{type(model).__name__} is packed, which is not trained: its amaxes are those it was "
            "packed with."
        )
    found = [place for place in amax_places(model) if place.spec.amax != "learned"]
    if not found:
        raise ValueError(
            f"no layer of {type(model).__name__} quantizes x by an amax of its own (formats with "
            "scales of blocks alone have none); apply a recipe that does first: "
            "fp4jax.nnx.apply_recipe(model, 'full')."
        )
    for place in found:
        one = (
            AverageAmax(float(memory), place.stack)
            if memory < 1
            else DelayedAmax(int(memory), place.stack)
        )
        set_static(place, jnp.zeros(place.stack), one)
    return model


def update_amax(model: Model) -> Model:
    """Ends a step: running and learned amaxes take in what the step's forward pass saw.

    Call it in the train step, after the forward pass and, if amaxes are learned, after the
    optimizer's update. Works on traced values.

    Args:
        model: changed in place; one without such amaxes stays as it is.

    Returns:
        The model.

    Raises:
        ValueError: for anything but an NNX model.
    """
    for amax, watch in _followed(model):
        amax.set_value(watch.advance(amax.get_value()))
    return model


def follows(model: nnx.Module) -> bool:
    """Whether :func:`update_amax` has something to do."""
    return any(True for _ in _followed(model))


def _followed(model: nnx.Module) -> Iterator[tuple[nnx.Variable, AmaxWatch]]:
    for place in amax_places(model):
        amax, watch = place.amax, place.watch
        if isinstance(watch, AmaxWatch) and amax is not None:
            yield amax, watch


def check_memory(name: str, memory: int | float) -> None:
    """ValueError for anything but a decay or a number of steps."""
    if (
        not is_number(memory)
        or not math.isfinite(memory)
        or memory <= 0
        or (memory > 1 and memory % 1)
    ):
        raise ValueError(
            f"{name} is {shown(memory)}; give the decay of an average, above 0 and below 1, or a "
            "whole number of steps."
        )
