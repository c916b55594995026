"""The real input x, weight w and output gradient g of every quantized layer.

Each layer's injected operation is replaced by one that computes in high precision, notes its
arguments, and adds a probe of zeros to its result: the probe's gradient is g.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis.subject import Subject
from fp4jax.core.typing import Array
from fp4jax.ops.recipe import Recipe, get_recipe


class Tensors(NamedTuple):
    """A layer's operands as its operation takes them, and the gradient of its result."""

    x: Array
    w: Array
    g: Array


@dataclasses.dataclass(frozen=True)
class Call:
    """All of a layer's call that is static; equal layers have equal calls."""

    op: type[fp4nnx.Op]
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]

    def __call__(self, x: Array, w: Array, recipe: str | int | Recipe, key: Any = None) -> Array:
        """The layer's product under any recipe, by the operation that training injects."""
        op: Any = self.op(get_recipe(recipe), "")
        if op.key is not None:
            op.key.set_value(key)
        return op(*self.op.arguments(x, w, self.arguments), **dict(self.options))


class _Recorder(fp4nnx.Op):
    """An operation that hands its call to ``note``."""

    def __init__(self, op: type[fp4nnx.Op], note: Callable[..., Array]):
        super().__init__(get_recipe("baseline"), "")
        self.op, self.note = op, note

    def __call__(self, *given: Any, **options: Any) -> Array:
        x, w, further = self.op.operands(given)
        items = tuple((name, _frozen(value)) for name, value in options.items())
        return self.note(Call(self.op, _frozen(further), items), x, w)


def record(
    subject: Subject, recipe: str | int | Recipe, params: Any, stats: Any, batches: Sequence[Any]
) -> tuple[dict[str, Call], list[dict[str, Tensors]]]:
    """The layers that ``recipe`` quantizes, run in high precision.

    Args:
        subject: the model.
        recipe: says which layers; how it quantizes them plays no part.
        params, stats: of the model.
        batches: what the subject's loss takes, all of one shape.

    Returns:
        Calls by the layers' paths, in the order of the forward pass, and their tensors for each
        batch.

    Raises:
        ValueError: a layer runs twice in one forward pass.
    """
    run, calls = _runner(subject, get_recipe(recipe))
    tensors = [run(params, stats, batch) for batch in batches]
    return dict(calls), tensors


@functools.lru_cache(maxsize=8)
def _runner(subject: Subject, recipe: Recipe) -> tuple[Any, dict[str, Call]]:
    """The compiled pass, and the calls, which are known once it is traced."""
    bind = subject.structure(recipe)
    calls: dict[str, Call] = {}

    def loss(probes: dict[str, Array], params: Any, stats: Any, batch: Any):
        model = bind(params, stats)
        seen: dict[str, tuple[Array, Array]] = {}
        results: dict[str, Array] = {}
        _inject(model, probes, calls, seen, results)
        return subject.loss(model, batch), (seen, results)

    @jax.jit
    def run(params: Any, stats: Any, batch: Any) -> dict[str, Tensors]:
        shapes = jax.eval_shape(loss, {}, params, stats, batch)[1][1]
        probes = {path: jnp.zeros(y.shape, y.dtype) for path, y in shapes.items()}
        gradients, (seen, _) = jax.grad(loss, has_aux=True)(probes, params, stats, batch)
        return {name: Tensors(seen[name][0], seen[name][1], gradients[name]) for name in probes}

    return run, calls


def _inject(model: nnx.Module, probes, calls, seen, results) -> None:
    """Replaces every operation that quantizes."""
    modules = dict(nnx.iter_modules(model))
    for path, op in modules.items():
        if isinstance(op, fp4nnx.AttentionOp) or not isinstance(op, fp4nnx.Op):
            continue
        if op.recipe.quantizes:
            name = ".".join(map(str, path[:-1])) or "(model)"

            def note(call: Call, x: Array, w: Array, name: str = name) -> Array:
                if name in seen:
                    raise ValueError(
                        f"layer {name!r} runs twice in one forward pass; a diagnosis takes models "
                        "whose quantized layers run once."
                    )
                y = call(x, w, "baseline")
                calls[name], seen[name], results[name] = call, (x, w), y
                return y + probes[name] if name in probes else y

            setattr(modules[path[:-1]], str(path[-1]), nnx.data(_Recorder(type(op), note)))


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that a call can be hashed."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return tuple(map(_frozen, value))
    return value
