"""Functions with two rules of differentiation: one for forward mode, one for reverse mode.

Rounding has no derivative, so a quantized product has the rules that it is given. Forward mode
passes tangents straight through the rounding; reverse mode, which trains, quantizes gradients, and
is not the transpose of that. JAX has ``custom_jvp`` for the one and ``custom_vjp`` for the other;
the latter refuses forward mode.

Here a function is a ``custom_jvp`` whose tangent is one primitive, linear in the tangents, with the
reverse rule for its transpose. Evaluated, it is the forward rule; transposed, as ``jax.grad`` does,
the forward rule is never even traced.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from fp4jax.core.primitive import Primitive
from fp4jax.core.typing import Array


def two_modes(
    forward: Callable[..., tuple[Array, Any]],
    tangent: Callable[[Any, Any, Sequence[Array | None]], Array],
    backward: Callable[[Any, Any, Array], Sequence[Any]],
    wrt: int = 2,
    value: Callable[..., Array] | None = None,
) -> Callable[..., Array]:
    """``(plan, *args) -> y``, with a rule for tangents and another for gradients.

    Derivatives of derivatives are those of the rules: of ``forward`` and ``backward`` for gradients
    of gradients, as with ``jax.custom_vjp``; of ``tangent`` for a gradient of a tangent.

    Args:
        forward: ``(plan, *args) -> (y, residuals)``: y is one array, residuals a pytree, plan any
            hashable value, args pytrees.
        tangent: ``(plan, residuals, (dx, dw, ...)) -> dy``, in y's shape and dtype, linear in the
            tangents; one is None where it is zero.
        backward: ``(plan, residuals, g) -> (gx, gw, ...)``: the gradients of the first ``wrt`` args
            (more may follow).
        wrt: how many args have derivatives, if they are arrays. All other derivatives are zero.
        value: y alone, where nothing is differentiated; None for that of ``forward``. A ``forward``
            that calls the function itself is never differentiated as it is written.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> step = two_modes(
        ...     lambda _, x: (jnp.round(x), None),
        ...     tangent=lambda _, residuals, tangents: tangents[0],
        ...     backward=lambda _, residuals, g: (jnp.round(g),),
        ...     wrt=1,
        ... )
        >>> y, dy = jax.jvp(lambda x: step(None, x), (jnp.float32(1.3),), (jnp.float32(0.3),))
        >>> y.item(), round(dy.item(), 6)
        (1.0, 0.3)
        >>> jax.grad(lambda x: 0.3 * step(None, x))(jnp.float32(1.3)).item()
        0.0
    """
    rules = _Rules(tangent, backward)

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def function(plan: Any, *args: Any) -> Array:
        return forward(plan, *args)[0] if value is None else value(plan, *args)

    def rule(plan: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, Any]:
        y, residuals = forward(plan, *primals)
        moving = {i: t for i, t in enumerate(tangents[:wrt]) if _moves(t)}
        if not moving:
            return y, SymbolicZero(jax.typeof(y).to_tangent_aval())
        leaves, structure = jax.tree.flatten(residuals)
        call = _Call(rules, plan, structure, len(leaves), tuple(moving), wrt)
        return y, _tangent.bind(*leaves, *moving.values(), call=call, out=jax.typeof(y))

    function.defjvp(rule, symbolic_zeros=True)
    return function


def _moves(tangent: Any) -> bool:
    """Whether it is of an array and not zero."""
    leaves = jax.tree.leaves(tangent)
    return len(leaves) == 1 and leaves[0] is tangent and not isinstance(tangent, SymbolicZero)


@dataclasses.dataclass(frozen=True)
class _Rules:
    tangent: Callable[..., Array]
    backward: Callable[..., Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call's tangent as a function of flat residuals and of the tangents that are not zero."""

    rules: _Rules
    plan: Any
    structure: Any
    residuals: int
    moving: tuple[int, ...]
    wrt: int

    def tangent(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> Array:
        given: list[Array | None] = [None] * self.wrt
        for i, t in zip(self.moving, tangents, strict=True):
            given[i] = t
        return self.rules.tangent(self.plan, self.structure.unflatten(residuals), tuple(given))

    def backward(self, residuals: Sequence[Any], g: Any) -> list[Array]:
        gradients = self.rules.backward(self.plan, self.structure.unflatten(residuals), g)
        return [gradients[i] for i in self.moving]


@dataclasses.dataclass(frozen=True)
class _Lanes:
    """A call mapped over a leading axis of the arguments that are ``mapped``."""

    call: Any
    residuals: int
    mapped: tuple[bool, ...]
    options: tuple[tuple[str, Any], ...]

    def _vmap(self, function: Callable[..., Any], mapped: Sequence[bool], last: Any) -> Any:
        axes = [0 if m else None for m in mapped]
        return jax.vmap(function, in_axes=(axes, last), **dict(self.options))

    def tangent(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> Array:
        of_residuals, of_tangents = self.mapped[: self.residuals], self.mapped[self.residuals :]
        axes = [0 if m else None for m in of_tangents]
        return self._vmap(self.call.tangent, of_residuals, axes)(list(residuals), list(tangents))

    def backward(self, residuals: Sequence[Any], g: Any) -> list[Array]:
        of_residuals, of_tangents = self.mapped[: self.residuals], self.mapped[self.residuals :]
        gradients = self._vmap(self.call.backward, of_residuals, 0)(list(residuals), g)
        # What all lanes share has the sum of their gradients.
        return [x if m else x.sum(0) for x, m in zip(gradients, of_tangents, strict=True)]


_tangent = Primitive("two_modes_tangent")


def _evaluate(*args: Any, call: _Call | _Lanes, out: Any) -> Array:
    return call.tangent(args[: call.residuals], args[call.residuals :])


mlir.register_lowering(_tangent, mlir.lower_fun(_evaluate, multiple_results=False))


@_tangent.def_impl
def _run(*args: Any, **params: Any) -> Array:
    # A primitive is compiled even where JAX's functions are not.
    with jax.disable_jit(False):
        return _compiled(*args, **params)


@functools.partial(jax.jit, static_argnames=("call", "out"))
def _compiled(*args: Any, **params: Any) -> Array:
    return _tangent.bind(*args, **params)


@_tangent.def_abstract_eval
def _type(*args: Any, call: _Call | _Lanes, out: Any) -> Any:
    return out


def _transpose(g: Any, *args: Any, call: _Call | _Lanes, out: Any) -> list[Any]:
    """Gradients of the tangents, by the reverse rule; residuals are constants."""
    wanted = [ad.is_undefined_primal(a) for a in args]
    if isinstance(g, ad.Zero):
        return [ad.Zero(a.aval) if w else None for a, w in zip(args, wanted, strict=True)]
    gradients = [None] * call.residuals + call.backward(args[: call.residuals], g)
    return [x if w else None for x, w in zip(gradients, wanted, strict=True)]


ad.primitive_transposes[_tangent] = _transpose


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: Any, out: Any):
    """A tangent's own tangent: linear in the tangents, and as the rule has it in the residuals."""
    dy = _tangent.bind(*primals, call=call, out=out)
    n = call.residuals
    residuals, given = list(primals[:n]), primals[n:]
    moving = [i for i in range(n) if not isinstance(tangents[i], ad.Zero)]
    terms = []
    if not all(isinstance(t, ad.Zero) for t in tangents[n:]):
        moved = [ad.instantiate_zeros(t) for t in tangents[n:]]
        terms.append(_tangent.bind(*residuals, *moved, call=call, out=out))
    if moving:

        def of_residuals(*values: Any) -> Array:
            used = list(residuals)
            for i, value in zip(moving, values, strict=True):
                used[i] = value
            return call.tangent(used, given)

        primal, moved = [residuals[i] for i in moving], [tangents[i] for i in moving]
        terms.append(jax.jvp(of_residuals, primal, moved)[1])
    return dy, functools.reduce(jnp.add, terms)


ad.primitive_jvps[_tangent] = _jvp


def _batch(axis: Any, args: Sequence[Any], dims: Sequence[Any], *, call: Any, out: Any):
    if all(d is None for d in dims):
        return _tangent.bind(*args, call=call, out=out), None
    moved = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)]
    options = {"axis_size": axis.size, "axis_name": axis.name, "spmd_axis_name": axis.spmd_name}
    mapped = tuple(d is not None for d in dims)
    lanes = _Lanes(call, call.residuals, mapped, tuple(options.items()))
    spec = PartitionSpec(axis.explicit_mesh_axis, *out.sharding.spec)
    whole = out.update(
        shape=(axis.size, *out.shape), sharding=NamedSharding(out.sharding.mesh, spec)
    )
    return _tangent.bind(*moved, call=lanes, out=whole), 0


# Of the two kinds of rules the one that is told the mapped axis, whose name a rule may use.
batching.fancy_primitive_batchers[_tangent] = _batch
