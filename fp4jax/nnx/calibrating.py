"""calibrate(model, batches): a static amax for x of every quantized layer."""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.spec import is_number, shown
from fp4jax.core.typing import Array
from fp4jax.nnx.amax_places import amax_places
from fp4jax.nnx.keys import Model, refresh_keys
from fp4jax.nnx.observers import (
    CANDIDATES,
    Errors,
    Largest,
    Magnitudes,
    Observation,
    Observer,
    percentile_of,
)
from fp4jax.nnx.packed_operations import PackedOp
from fp4jax.nnx.static_x import set_static

_LOG = logging.getLogger("fp4jax")

Method = Literal["max", "percentile", "mse"]
#: Layers' paths -> what their observers have, by name: the sums of all batches, or the largest.
_Seen = dict[str, dict[str, np.ndarray]]


def calibrate(
    model: Model,
    batches: Iterable[Any],
    method: str = "max",
    *,
    headroom: int | float = 1.0,
    percentile: int | float = 99.99,
    call: Callable[..., Any] | None = None,
) -> Model:
    """Gives x of every quantized layer a static amax A, found on some batches.

    So q, k, P and v of attention, where a recipe quantizes its products.

    The forward pass then does not look at x to scale it, which is what deployment targets ask for,
    and an example's result does not depend on what else is in the batch. Block scales stay dynamic.
    What exceeds A is clamped to it.

        max         A = headroom * max |x|
        percentile  A = headroom * the value that ``percentile`` % of all |x| do not exceed, to 8
                    bits, rounded up
        mse         A = headroom * the candidate 2^(i/8) max |x|, i = -32 .. 0, with the smallest
                    sum of (Q(x; A) - x)^2

    over all batches; with ``hadamard`` x is the rotated operand. Each layer keeps A in a variable,
    :class:`fp4jax.nnx.CalibratedAmax`, which checkpoints save and :func:`fp4jax.nnx.pack` keeps,
    and its recipe becomes "NAME+static". A learned amax starts from A, and stays learned. With
    "max", one batch and no headroom the layers compute on that batch what they computed before,
    bit for bit, where x had one amax (``amax="tensor"``).

    The model runs on the batches in evaluation mode, compiled once, and its layers quantize by the
    amax of the batch as they go. Every variable is left alone but the layers' amax. Whatever
    ``nnx.BatchNorm`` works in, works here: ``nnx.scan``, ``nnx.vmap`` over stacks of layers (an
    amax for each), ``nnx.remat``, ``nnx.jit``. A layer that is called in a bare ``jax.jit``,
    ``jax.vmap`` or ``jax.lax.scan`` cannot note what it sees; Flax says so (TraceContextError).

    Args:
        model: with a recipe applied; changed in place.
        batches: what the model is called with: an array, or a tuple of several arguments; all of
            them arrays or pytrees of arrays, and all batches of one shape, or each new shape is
            compiled. Read one after the other, by "mse" twice, so they are kept in memory then.
        method: "max", "percentile" or "mse".
        headroom: a factor for what the batches did not show.
        percentile: of all magnitudes, zeros included; above 0, at most 100.
        call: ``(model, *batch)``, if the model is not simply called.

    Returns:
        The model.

    Raises:
        ValueError: no batches, an empty one, NaN or Inf in one or in a layer's x, a model that is
            packed or whose layers do not quantize x by a tensor scale, a layer that no batch
            reaches, an unknown method, a headroom or percentile out of its range.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> layer = calibrate(layer, [jnp.full((2, 16), 3.0), jnp.full((2, 16), -5.0)])
        >>> float(layer.dot_general.amax[...]), layer.dot_general.recipe.name
        (5.0, 'full+static')
    """
    _check(method, headroom, percentile)
    _check_model(model)
    call = call or (lambda model, *inputs: model(*inputs))
    if not isinstance(batches, Iterable):
        raise ValueError(f"batches is {shown(batches)}; give a list of inputs of the model.")
    if method == "mse":
        batches = list(batches)
    first = _FIRST[method]
    seen = _observe(model, lambda _, stack, clip: first(stack, clip), batches, call)
    top = {path: of_layer["amax"] for path, of_layer in seen.items()}
    found = top
    if method == "percentile":
        found = {
            path: np.minimum(percentile_of(of_layer["counts"], percentile), top[path])
            for path, of_layer in seen.items()
        }
    if method == "mse":
        errors = _observe(
            model,
            lambda path, stack, clip: Errors(stack, clip, jnp.asarray(top[path])),
            batches,
            call,
        )
        found = {path: top[path] * _best(errors[path]["errors"]) for path in top}
    _set(model, {path: _with_headroom(np.asarray(a), float(headroom)) for path, a in found.items()})
    return model


_FIRST: dict[str, type[Largest]] = {"max": Largest, "percentile": Magnitudes, "mse": Largest}


def _best(errors: np.ndarray) -> np.ndarray:
    """The candidate of the smallest error, of several the largest."""
    return np.asarray(CANDIDATES[::-1][errors[..., ::-1].argmin(-1)])


def _with_headroom(amax: np.ndarray, headroom: float) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.asarray(np.float32(headroom) * amax)
    if not np.array_equal(scaled > 0, amax > 0) or not np.isfinite(scaled).all():
        raise ValueError(
            f"headroom is {headroom:g}, with which an amax of {amax.max():g} leaves the range of "
            "float32; give a factor near 1."
        )
    return scaled


def _check(method: Any, headroom: Any, percentile: Any) -> None:
    if method not in get_args(Method):
        allowed = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"method is {shown(method)}; allowed: {allowed}.")
    if not (is_number(headroom) and math.isfinite(headroom) and headroom > 0):
        raise ValueError(f"headroom is {shown(headroom)}; give a positive factor, 1.0 for none.")
    if not (is_number(percentile) and 0 < percentile <= 100):
        raise ValueError(
            f"percentile is {shown(percentile)}; give a share of all magnitudes in percent, above "
            "0, at most 100."
        )


def _check_model(model: Any) -> None:
    found = list(amax_places(model))
    if any(isinstance(op, PackedOp) for _, op in nnx.iter_modules(model)):
        raise ValueError(
            f"{type(model).__name__} is packed; calibrate the model that was trained, then pack "
            "it: its amaxes are kept."
        )
    if not found:
        raise ValueError(
            f"no layer of {type(model).__name__} quantizes x in its forward pass by a tensor scale "
            "(formats with scales of blocks alone have no amax); apply a recipe that does first: "
            "fp4jax.nnx.apply_recipe(model, 'full')."
        )


def _observe(
    model: nnx.Module,
    make: Callable[[str, tuple[int, ...], float], Observer],
    batches: Iterable[Any],
    call: Callable[..., Any],
) -> _Seen:
    """What an observer in each layer sees of all batches."""
    watched: Any = nnx.clone(model)
    watched.eval()
    observers: dict[str, Observer] = {}
    for place in amax_places(watched):
        observers[place.path] = make(place.path, place.stack, place.spec.clip)
        set_static(place, jnp.zeros(place.stack), observers[place.path])
    # Stochastic operations want some key.
    refresh_keys(watched, 0, 0)
    names = {id(observer): path for path, observer in observers.items()}
    places = [
        (names[id(module)], ".".join(map(str, path)))
        for path, module in nnx.iter_modules(watched)
        if id(module) in names
    ]
    graph, state, rest = nnx.split(watched, Observation, ...)

    @jax.jit
    def run(state: Any, rest: Any, inputs: tuple[Any, ...]) -> dict[str, Any]:
        model: Any = nnx.merge(graph, state, rest)
        call(model, *inputs)
        modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
        return {
            path: {
                name: variable.get_value()
                for name, variable in vars(modules[place]).items()
                if isinstance(variable, Observation) and name != "top"
            }
            for path, place in places
        }

    seen: _Seen = {}
    for number, batch in enumerate(batches):
        inputs = batch if isinstance(batch, tuple) else (batch,)
        _check_batch(number, inputs)
        _add(seen, jax.device_get(run(state, rest, inputs)))
    if not seen:
        raise ValueError("there are no batches; give at least one to calibrate on.")
    _check_seen(seen)
    return seen


def _add(seen: _Seen, batch: dict[str, dict[str, Any]]) -> None:
    """Takes in what a batch showed: the largest amax, sums of all else."""
    for path, values in batch.items():
        of_layer = seen.setdefault(path, {})
        for name, value in values.items():
            wide = np.asarray(value, None if name == "amax" else np.float64)
            old = of_layer.get(name, np.zeros_like(wide))
            of_layer[name] = np.asarray(np.maximum(old, wide) if name == "amax" else old + wide)


def _check_batch(number: int, inputs: tuple[Any, ...]) -> None:
    for leaf in jax.tree.leaves(inputs):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise ValueError(
                f"batch {number} holds {shown(leaf)}; give arrays, and what else the model takes "
                "by call=lambda model, *batch: model(*batch, ...)."
            )
        if 0 in leaf.shape:
            raise ValueError(
                f"batch {number} has shape {leaf.shape}, which holds no numbers; leave it out."
            )
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            raise ValueError(
                f"batch {number} has NaN or Inf among its values; calibrate on finite data."
            )


def _check_seen(seen: _Seen) -> None:
    unused = [path or "(model)" for path, values in seen.items() if not np.all(values["calls"])]
    if unused:
        raise ValueError(
            f"no batch reached {', '.join(unused)}: the model never calls it, so its x has no "
            "amax. Call what uses it (call=), or keep it in high precision (apply_recipe(..., "
            "keep=))."
        )
    broken = [
        path or "(model)"
        for path, values in seen.items()
        if not all(np.isfinite(value).all() for value in values.values())
    ]
    if broken:
        raise ValueError(
            f"x of {broken[0]} has NaN or Inf, though the batches have none: the model's "
            "parameters or its own arithmetic do. Calibrate a model whose outputs are finite."
        )


def _set(model: nnx.Module, amaxes: dict[str, np.ndarray]) -> None:
    """The layers quantize by these from now on."""
    zero = [path or "(model)" for path, amax in amaxes.items() if not np.all(amax)]
    if zero:
        _LOG.warning("x of %s was 0 in all batches; its amax is set to 1.", ", ".join(zero))
    for place in amax_places(model):
        found = amaxes[place.path]
        amax: Array = jnp.asarray(np.where(found == 0, np.float32(1), found))
        if place.spec.amax == "learned" and place.amax is not None:
            place.amax.set_value(amax)
        else:
            set_static(place, amax)
    sizes = np.concatenate([np.ravel(amax) for amax in amaxes.values()])
    _LOG.info("%d layers calibrated: amax %.3g to %.3g", len(amaxes), sizes.min(), sizes.max())
