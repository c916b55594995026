"""Flax NNX: apply_recipe(model, recipe), fresh rounding keys per step, an account of the layers.

A quantized layer holds an operation in Flax's own injection slot (``dot_general``,
``conv_general_dilated``); nothing is patched. The operation is a module with a static recipe and,
if the recipe is stochastic, a :class:`RoundingKey`: a variable that ``refresh_keys`` refills
inside the train step.
"""

import dataclasses
import importlib
import inspect
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import canonicalize_padding
from jax import lax

import fp4jax
from fp4jax.core.quantizer import check_key
from fp4jax.core.spec import shown
from fp4jax.core.typing import Array
from fp4jax.ops.recipe import Recipe, get_recipe

if TYPE_CHECKING:
    from fp4jax.packed import pack as pack


def __getattr__(name: str):
    # Packing builds on this module.
    if name == "pack":
        return importlib.import_module("fp4jax.packed").pack
    raise AttributeError(f"module 'fp4jax.nnx' has no attribute {name!r}")


class RoundingKey(nnx.Variable):
    """The random key of one quantized operation; see :func:`refresh_keys`."""


class Op(nnx.Module):
    """What a layer's injection slot holds: a static recipe and, if it is stochastic, a key."""

    def __init__(self, recipe: Recipe, path: str, stack: tuple[int, ...] = ()):
        self.recipe = recipe
        key = _path_key(jax.random.key(0), path, stack) if recipe.stochastic else None
        self.key = None if key is None else RoundingKey(key)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that the quantized functions take beyond lax's."""
        return {"recipe": self.recipe, "key": None if self.key is None else self.key.get_value()}


class DotGeneral(Op):
    """``fp4jax.dot_general`` for a ``dot_general`` slot."""

    def __call__(self, *args, **kwargs) -> Array:
        return fp4jax.dot_general(*args, **kwargs, **self.options)


class ConvGeneralDilated(Op):
    """``fp4jax.conv_general_dilated`` for a ``conv_general_dilated`` slot."""

    def __call__(self, *args, **kwargs) -> Array:
        return fp4jax.conv_general_dilated(*args, **kwargs, **self.options)


class ConvTransposeOp(Op):
    """``fp4jax.conv_transpose`` for the slot of :class:`ConvTranspose`."""

    def __call__(self, *args, **kwargs) -> Array:
        return fp4jax.conv_transpose(*args, **kwargs, **self.options)


class ConvTranspose(nnx.ConvTranspose):
    """``nnx.ConvTranspose`` with an injection slot, ``conv_transpose``, which Flax's lacks.

    :func:`apply_recipe` turns a model's layers into it. Same parameters, same result.
    """

    conv_transpose: Any = staticmethod(lax.conv_transpose)

    def __call__(self, inputs: Array) -> Array:
        space = len(self.kernel_size)
        strides, dilation = (
            (n or 1,) * space if n is None or isinstance(n, int) else tuple(n)
            for n in (self.strides, self.kernel_dilation)
        )
        kernel = self.kernel[...]
        if self.mask is not None:
            kernel = kernel * self.mask
        bias = None if self.bias is None else self.bias[...]
        batch = inputs.shape[: inputs.ndim - space - 1]
        inputs, kernel, bias = self.promote_dtype((inputs, kernel, bias), dtype=self.dtype)
        x = inputs.reshape(-1, *inputs.shape[inputs.ndim - space - 1 :])
        circular = self.padding == "CIRCULAR"
        y = self.conv_transpose(
            x,
            kernel,
            strides,
            "VALID" if circular else canonicalize_padding(self.padding, space),
            rhs_dilation=dilation,
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        if circular:
            for axis, stride in enumerate(strides, start=1):
                y = _wrap(y, axis, x.shape[axis] * stride, self.transpose_kernel)
        if bias is not None:
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y.reshape(*batch, *y.shape[1:])


def _wrap(y: Array, axis: int, period: int, odd_on_the_right: bool) -> Array:
    """Adds up what lies a whole number of periods apart, centred as Flax centres it."""
    missing = -(y.shape[axis] - period) % (2 * period)
    low = missing // 2 if odd_on_the_right else -(-missing // 2)
    config = [(0, 0, 0)] * y.ndim
    config[axis] = (low, missing - low, 0)
    padded = lax.pad(y, jnp.zeros((), y.dtype), config)
    shape = padded.shape
    return padded.reshape(*shape[:axis], -1, period, *shape[axis + 1 :]).sum(axis)


# The layers that can be quantized, their slot, and what goes into it.
_SLOTS: dict[type[nnx.Module], tuple[str, type[Op], Any]] = {
    nnx.Linear: ("dot_general", DotGeneral, lax.dot_general),
    nnx.LinearGeneral: ("dot_general", DotGeneral, None),
    nnx.Conv: ("conv_general_dilated", ConvGeneralDilated, lax.conv_general_dilated),
    nnx.ConvTranspose: ("conv_transpose", ConvTransposeOp, lax.conv_transpose),
}


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer that can be quantized."""

    path: str
    kind: str
    kernel_shape: tuple[int, ...]
    # name of the recipe, or "high precision"
    precision: str

    @property
    def parameters(self) -> int:
        """Number of weights of the kernel."""
        return math.prod(self.kernel_shape)


@dataclasses.dataclass(frozen=True)
class Report:
    """Which layers of a model are quantized; ``str(report)`` is a table."""

    layers: tuple[LayerReport, ...]
    # parameters of the whole model, norms and biases included
    parameters: int

    @property
    def quantized(self) -> tuple[LayerReport, ...]:
        return tuple(layer for layer in self.layers if layer.precision != _HIGH)

    @property
    def summary(self) -> str:
        """One line: how many layers, what share of the parameters."""
        share = sum(layer.parameters for layer in self.quantized) / max(self.parameters, 1)
        names = ", ".join(sorted({layer.precision for layer in self.quantized})) or "baseline"
        kept = [layer.path for layer in self.layers if layer.precision == _HIGH]
        line = (
            f"{names}: {len(self.quantized)} of {len(self.layers)} layers quantized, "
            f"{share:.1%} of {self.parameters:,} parameters"
        )
        return f"{line}; high precision: {', '.join(kept)}" if kept else line

    def __str__(self) -> str:
        rows = [
            (layer.path, layer.kind, "x".join(map(str, layer.kernel_shape)), layer.precision)
            for layer in self.layers
        ]
        rows.insert(0, ("layer", "kind", "kernel", "precision"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return f"{table}\n{self.summary}"


_HIGH = "high precision"


def apply_recipe(
    model: nnx.Module,
    recipe: str | int | Recipe,
    keep: str | Sequence[str] = (),
    *,
    verbose: bool = True,
) -> nnx.Module:
    """Quantizes the layers of an NNX model: Linear, LinearGeneral, Conv and ConvTranspose.

    These include the projections of ``nnx.MultiHeadAttention`` and of recurrent cells. Embeddings,
    norms, biases, ``nnx.Einsum`` and the products inside attention stay in high precision.
    Applying another recipe later replaces the first; parameters are never touched.

    Args:
        model: any NNX model; changed in place.
        recipe: a Recipe, its name, or the paper's id.
        keep: regular expressions, matched from the start of a layer's dotted path; layers that
            match one stay in high precision. "layers.1" matches layers.10 too, r"layers\\.1$" does
            not. (Convolutions among them get fp4jax's unquantized operation, whose gradients are
            faster on CPU.)
        verbose: print one line that says what was changed; :func:`report` has the whole table.

    Returns:
        The model.

    Raises:
        ValueError: for an unknown recipe, a pattern that matches no layer, a model without layers
            to quantize, a packed model (apply recipes to the trained one and pack that), or a
            layer whose slot is taken by somebody else's function or not used.

    Example:
        >>> from flax import nnx
        >>> mlp = nnx.Sequential(
        ...     nnx.Linear(32, 64, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(64, 2, rngs=nnx.Rngs(1))
        ... )
        >>> mlp = apply_recipe(mlp, "2d+rht+sr", keep="layers.2")
        2d+rht+sr: 1 of 2 layers quantized, 91.3% of 2,242 parameters; high precision: layers.2
    """
    recipe, baseline = get_recipe(recipe), get_recipe("baseline")
    layers = list(_layers(model))
    if not layers:
        raise ValueError(
            f"no layer of {type(model).__name__} can be quantized; apply_recipe takes an NNX "
            "model with nnx.Linear, LinearGeneral, Conv or ConvTranspose layers."
        )
    kept = _matches([path for path, _ in layers], _patterns(keep))
    for path, layer in layers:
        _check_slot(path, layer)
        if path not in kept:
            _check_call(path, layer)
    for path, layer in layers:
        _inject(path, layer, baseline if path in kept else recipe)
    if verbose:
        print(report(model).summary)
    return model


def report(model: nnx.Module) -> Report:
    """Which layers of a model are quantized, by which recipe, and how many parameters that is.

    Example:
        >>> from flax import nnx
        >>> print(report(nnx.Linear(16, 4, rngs=nnx.Rngs(0))).summary)
        baseline: 0 of 1 layers quantized, 0.0% of 68 parameters; high precision: (model)
    """
    rows = []
    for path, layer in _layers(model):
        op = getattr(layer, _slot(layer)[0], None)
        recipe = op.recipe if isinstance(op, Op) else get_recipe("baseline")
        rows.append(
            LayerReport(
                path=path or "(model)",
                kind=_base(layer).__name__,
                kernel_shape=tuple(layer.kernel.get_value().shape),
                precision=recipe.name if recipe.quantizes else _HIGH,
            )
        )
    parameters = sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return Report(tuple(rows), parameters)


def refresh_keys(model: nnx.Module, seed: int | Array, step: int | Array) -> nnx.Module:
    """Gives every quantized operation its rounding key of this step; call it in the train step.

    key of an operation = fold_in(fold_in(seed, step), hash of its path): repeatable bit for bit,
    different for every step and layer, and nothing to checkpoint. Works on traced seeds and steps,
    under ``vmap``, ``scan`` and remat; a model without stochastic recipe is left as it is. Every
    layer of a stack (``nnx.vmap``, ``nnx.scan``) gets a key of its own. Without a call, every step
    rounds with the same bits; within a step, so do two calls of one layer.

    Args:
        model: changed in place.
        seed: an int, or a ``jax.random`` key.
        step: number of the step, an integer.

    Returns:
        The model.

    Raises:
        ValueError: for anything but an NNX model, an integer or key as seed, and an integer step.

    Example:
        >>> from flax import nnx
        >>> model = apply_recipe(nnx.Linear(16, 16, rngs=nnx.Rngs(0)), "sr", verbose=False)
        >>> model = refresh_keys(model, seed=2026, step=3)
    """
    _check_model(model)
    key = _step_key(seed, step)
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Op) and module.key is not None:
            stack = module.key.get_value().shape
            module.key.set_value(_path_key(key, _dotted(path[:-1]), stack))
    return model


def _path_key(key: Array, path: str, stack: tuple[int, ...]) -> Array:
    """The key of the operation at ``path``; for a stack of layers, one for each."""
    key = jax.random.fold_in(key, zlib.crc32(path.encode()))
    return jax.random.split(key, stack) if stack else key


def _step_key(seed: Any, step: Any) -> Array:
    if not _is_integer(step):
        raise ValueError(f"step is {shown(step)}; give an integer.")
    if _is_integer(seed):
        key = jax.random.key(seed)
    else:
        check_key(seed, "seed")
        # Layers hold typed keys; a raw one has a dimension more.
        key = jax.random.wrap_key_data(seed) if seed.ndim else seed
    return jax.random.fold_in(key, step)


def _is_integer(value: Any) -> bool:
    if hasattr(value, "dtype"):
        return value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)
    return isinstance(value, int)


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))


def _check_model(model: Any) -> None:
    if not isinstance(model, nnx.Module):
        raise ValueError(
            f"model is a {type(model).__name__}; fp4jax.nnx takes a flax.nnx.Module (for Linen "
            "see fp4jax.linen)."
        )


def _layers(model: nnx.Module) -> Iterator[tuple[str, Any]]:
    """(dotted path, layer) of all layers that can be quantized."""
    _check_model(model)
    for path, module in nnx.iter_modules(model):
        if isinstance(module, tuple(_SLOTS)):
            yield _dotted(path), module


def _base(layer: nnx.Module) -> type[nnx.Module]:
    return next(base for base in _SLOTS if isinstance(layer, base))


def _slot(layer: nnx.Module) -> tuple[str, type[Op], Any]:
    return _SLOTS[_base(layer)]


def _patterns(keep: Any) -> tuple[str, ...]:
    patterns = keep if isinstance(keep, tuple | list) else (keep,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"keep is {shown(keep)}; give regular expressions of paths, () for none.")
    return tuple(patterns)


def _matches(paths: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The paths that some pattern matches from their start."""
    kept: set[str] = set()
    for pattern in patterns:
        try:
            matched = {path for path in paths if re.match(pattern, path)}
        except re.error as error:
            raise ValueError(f"keep={pattern!r} is no regular expression: {error}.") from error
        if not matched and list(paths) == [""]:
            raise ValueError(
                f"keep={pattern!r} matches no layer: the model is one layer, whose path is empty."
            )
        if not matched:
            raise ValueError(
                f"keep={pattern!r} matches no layer; the layers are: {', '.join(paths)}."
            )
        kept |= matched
    return kept


def _check_slot(path: str, layer: Any) -> None:
    """Raises ValueError if this layer computes with somebody else's function."""
    name, op, default = _slot(layer)
    taken = getattr(layer, name, None)
    if isinstance(taken, Op) and not isinstance(taken, op):
        raise ValueError(
            f"layer {path!r} is packed: it holds 4-bit codes instead of a float kernel, and cannot "
            "take another recipe. Apply recipes to the trained model, and pack that afterwards "
            "(fp4jax.nnx.pack returns a new model; the trained one is unchanged)."
        )
    foreign = taken is not None and taken is not default and not isinstance(taken, op)
    if foreign or getattr(layer, "dot_general_cls", None) is not None:
        raise ValueError(
            f"layer {path!r} has its own {name}, which a recipe would replace; reset it to "
            "Flax's default first."
        )
    foreign_class = isinstance(layer, nnx.ConvTranspose) and not isinstance(layer, ConvTranspose)
    if foreign_class and type(layer) is not nnx.ConvTranspose:
        own_call = type(layer).__call__ is not nnx.ConvTranspose.__call__
        raise ValueError(
            f"layer {path!r} is a {type(layer).__name__}"
            f"{' with a __call__ of its own' if own_call else ''}; derive it from "
            "fp4jax.nnx.ConvTranspose, whose __call__ uses self.conv_transpose."
        )


def _check_call(path: str, layer: Any) -> None:
    """Raises ValueError if this layer's own ``__call__`` seems not to use the slot."""
    cls = next(c for c in type(layer).__mro__ if "__call__" in vars(c))
    if cls.__module__.split(".")[0] in ("flax", "fp4jax"):
        return
    slot = _slot(layer)[0]
    code = getattr(inspect.unwrap(vars(cls)["__call__"]), "__code__", None)
    if code is None or not {slot, "super", "__call__"} & {*code.co_names}:
        raise ValueError(
            f"layer {path!r} is a {type(layer).__name__} whose __call__ uses neither self.{slot} "
            "nor super().__call__, so that a recipe would change nothing; use one, or keep it."
        )


def _inject(path: str, layer: Any, recipe: Recipe) -> None:
    name, op, _ = _slot(layer)
    if type(layer) is nnx.ConvTranspose:
        layer.__class__ = ConvTranspose
    setattr(layer, name, nnx.data(op(recipe, path, _stack(layer))))


def _stack(layer: Any) -> tuple[int, ...]:
    """The leading dimensions of a stack of layers, as nnx.vmap makes and nnx.scan runs it."""
    base = _base(layer)
    if base is nnx.LinearGeneral:
        rank = len(layer.batch_axis) + len(layer.in_features) + len(layer.out_features)
    else:
        rank = 2 if base is nnx.Linear else len(layer.kernel_size) + 2
    shape = layer.kernel.get_value().shape
    return tuple(shape[: len(shape) - rank])
