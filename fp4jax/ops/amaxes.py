"""What a call is given about its operands, by role: amax, mapped axes, switches.

The amax of an operand is not always that of the array at hand: it may be given, or that of all
shards. A switch says whether an operand is quantized at all, as an array, so that one compiled
program serves every choice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fp4jax.core import quantizer
from fp4jax.core.seeds import AxisName
from fp4jax.core.spec import TensorSpec, shown
from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.ops.recipe import ROLES, Recipe


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Amaxes:
    """Amax by role, for operands with ``amax="static"``; mapped axes, for those with "tensor".

    And switches by role, bool scalars: operands whose switch is off enter in high precision. None:
    all that the recipe quantizes are quantized. A pytree, which passes through a call's forward and
    backward pass as its keys do.
    """

    # Any, not Array: pytrees also carry shapes and placeholders through this field.
    given: dict[str, Any]
    axis_name: AxisName = dataclasses.field(default=None, metadata={"static": True})
    switches: dict[str, Any] | None = None

    def switch(self, role: str) -> Array | None:
        """That of an operand; None where it has none, and is quantized."""
        return None if self.switches is None else self.switches.get(role)

    def of(
        self,
        role: str,
        spec: TensorSpec,
        x: Shaped[Array, "..."],
        axes: tuple[int, ...],
    ) -> Float[Array, ""] | None:
        """That of an operand; None where it is the array's own."""
        if spec.given:
            return self.given.get(role)
        if spec.amax != "tensor" or self.axis_name is None or not spec.has_tensor_scale:
            return None
        return self.of_shards(quantizer.tensor_amax(x, spec, axes), spec)

    def of_shards(self, amax: Float[Array, "*parts"], spec: TensorSpec) -> Float[Array, "*parts"]:
        """The largest of all shards, of an operand with ``amax="tensor"``."""
        if spec.amax != "tensor" or self.axis_name is None:
            return amax
        return quantizer.largest_of_shards(amax, self.axis_name)


def amaxes(
    name: str, recipe: Recipe, amax: Any, axis_name: AxisName, switches: Any = None
) -> Amaxes | None:
    """What a call of ``name`` was given; None where every operand has an amax of its own.

    Those of fprop.x may be functions of the operand, which :func:`fp4jax.ops.hooks.settled` calls.

    Raises:
        ValueError: roles of the recipe with ``amax="static"`` that have none, others that have
            one, or values that are not scalars; switches of other roles, or that are not scalars.

    Example:
        >>> import dataclasses
        >>> from fp4jax.ops.recipe import get_recipe
        >>> static = dataclasses.replace(get_recipe(1).fprop[0], amax="static")
        >>> recipe = Recipe(name="static", fprop=(static, static))
        >>> amaxes("dot_general", recipe, {"fprop.x": 3.0}, None)
        Traceback (most recent call last):
        ...
        ValueError: recipe 'static' needs amax of fprop.w: pass dot_general(amax={"fprop.w": ...}).
    """
    specs = {
        role: spec
        for role, spec in zip(ROLES, recipe.operands, strict=True)
        if spec is not None and spec.given
    }
    static = [role for role, spec in specs.items() if spec.amax == "static"]
    given = {} if amax is None else amax
    if not isinstance(given, Mapping):
        raise ValueError(
            f"amax is {shown(amax)}; give a mapping of roles ({', '.join(ROLES)}) to numbers."
        )
    if missing := [role for role in static if given.get(role) is None]:
        example = ", ".join(f'"{role}": ...' for role in missing)
        raise ValueError(
            f"recipe {recipe.name!r} needs amax of {', '.join(missing)}: pass "
            f"{name}(amax={{{example}}})."
        )
    if unused := [role for role in given if role not in specs]:
        raise ValueError(
            f"amax is given for {', '.join(map(str, unused))}, which recipe {recipe.name!r} does "
            "not quantize with TensorSpec(amax='static')."
        )
    if not specs and axis_name is None and switches is None:
        return None
    values = {r: _value(given[r], r) for r in specs if given.get(r) is not None}
    return Amaxes(values, axis_name, _switches(switches))


def _value(amax: Any, role: str) -> Any:
    return amax if callable(amax) else quantizer.static_amax(amax, role)


def has_switches(amaxes: Amaxes | None) -> bool:
    """Whether operands have switches: fprop's w then may be quantized and dgrad's not."""
    return amaxes is not None and amaxes.switches is not None


def _switches(given: Any) -> dict[str, Array] | None:
    """Switches as bool arrays."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not set(given) <= set(ROLES):
        raise ValueError(
            f"switches are {shown(given)}; give a mapping of roles ({', '.join(ROLES)}) to bool."
        )
    switches = {role: jnp.asarray(value) for role, value in given.items()}
    for role, value in switches.items():
        if value.ndim or value.dtype != jnp.bool_:
            raise ValueError(
                f"the switch of {role} is {value.dtype.name}{list(value.shape)}; give one bool."
            )
    return switches
