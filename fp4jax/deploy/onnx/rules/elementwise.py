"""Elementwise primitives. Operands stay small where ONNX's operators broadcast them."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.lax import RoundingMethod

from fp4jax.deploy.onnx.graph import element_type
from fp4jax.deploy.onnx.values import Shape, Value
from fp4jax.deploy.onnx.walker import UnsupportedError, Walker, rule

#: Primitives that are one operator of ONNX.
SAME = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "neg": "Neg",
    "abs": "Abs",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
}
#: Logical operators, of booleans only.
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}


def elementwise(
    walker: Walker, kind: str, inputs: Sequence[Value], dtype: Any, shape: Shape
) -> Value:
    """An operator of operands as they are held, whose result is then held small, too."""
    held = together([x.held for x in inputs], len(shape))
    graph = walker.graph
    names = [graph.name_of(x, small=True) for x in inputs]
    made = graph.emit(kind, names, dtype, held)
    return Value(tuple(shape), np.dtype(dtype), held, None, made.name)


def together(shapes: Sequence[Shape], rank: int) -> Shape:
    """What shapes of one rank, and scalars, are broadcast to, by sizes of 1."""
    full = [shape if shape else (1,) * rank for shape in shapes]
    return tuple(next((n for n in sizes if not _is_one(n)), 1) for sizes in zip(*full, strict=True))


def _is_one(n: Any) -> bool:
    return isinstance(n, int | np.integer) and n == 1


def _out(equation: Any) -> tuple[Any, Shape]:
    aval = equation.outvars[0].aval
    return aval.dtype, aval.shape


@rule(*SAME)
def _same(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [elementwise(walker, SAME[equation.primitive.name], inputs, *_out(equation))]


@rule(*LOGICAL)
def _logical(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    if inputs[0].dtype != np.bool_:
        raise UnsupportedError(f"operands are {inputs[0].dtype}; only booleans can be written")
    return [elementwise(walker, LOGICAL[equation.primitive.name], inputs, *_out(equation))]


@rule("div")
def _div(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Of integers both round towards zero."""
    return [elementwise(walker, "Div", inputs, *_out(equation))]


@rule("ne")
def _ne(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    equal = elementwise(walker, "Equal", inputs, *_out(equation))
    return [elementwise(walker, "Not", [equal], *_out(equation))]


@rule("square")
def _square(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [elementwise(walker, "Mul", [inputs[0], inputs[0]], *_out(equation))]


@rule("rsqrt")
def _rsqrt(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    root = elementwise(walker, "Sqrt", inputs, *_out(equation))
    return [elementwise(walker, "Reciprocal", [root], *_out(equation))]


@rule("integer_pow")
def _integer_pow(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    dtype, shape = _out(equation)
    power = Value.known(np.full((1,) * len(shape), equation.params["y"], dtype), shape=shape)
    return [elementwise(walker, "Pow", [inputs[0], power], dtype, shape)]


@rule("log1p", "expm1")
def _near_one(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """log(1 + x) and exp(x) - 1, without the accuracy of either near 0."""
    dtype, shape = _out(equation)
    one = Value.known(np.ones((1,) * len(shape), dtype), shape=shape)
    if equation.primitive.name == "log1p":
        total = elementwise(walker, "Add", [inputs[0], one], dtype, shape)
        return [elementwise(walker, "Log", [total], dtype, shape)]
    power = elementwise(walker, "Exp", inputs, dtype, shape)
    return [elementwise(walker, "Sub", [power, one], dtype, shape)]


@rule("round")
def _round(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    if equation.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise UnsupportedError("it rounds ties away from zero; jnp.round rounds them to even")
    return [elementwise(walker, "Round", inputs, *_out(equation))]


@rule("is_finite")
def _is_finite(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """|x| is at most the largest finite number."""
    shape, (x,) = equation.outvars[0].aval.shape, inputs
    magnitude = elementwise(walker, "Abs", [x], x.dtype, shape)
    largest = Value.known(np.asarray(jnp.finfo(x.dtype).max, x.dtype))
    return [elementwise(walker, "LessOrEqual", [magnitude, largest], np.bool_, shape)]


@rule("select_n")
def _select(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    which, *cases = inputs
    if which.dtype != np.bool_ or len(cases) != 2:
        raise UnsupportedError(f"it chooses one of {len(cases)} by {which.dtype}")
    dtype, shape = _out(equation)
    return [elementwise(walker, "Where", [which, cases[1], cases[0]], dtype, shape)]


@rule("clamp")
def _clamp(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    dtype, shape = _out(equation)
    low, x, high = inputs
    above = elementwise(walker, "Max", [low, x], dtype, shape)
    return [elementwise(walker, "Min", [above, high], dtype, shape)]


@rule("convert_element_type")
def _convert(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    dtype, shape = _out(equation)
    (x,) = inputs
    if x.dtype == dtype:
        return [x]
    if x.array is not None:
        return [Value.known(x.array.astype(dtype), x.name, x.shape)]
    name = walker.graph.name_of(x, small=True)
    made = walker.graph.emit("Cast", [name], dtype, x.held, to=element_type(dtype))
    return [Value(tuple(shape), np.dtype(dtype), x.held, None, made.name)]


@rule("stop_gradient", "optimization_barrier", "copy", "copy_p", "name", constants=True)
def _same_value(walker: Walker, equation: Any, inputs: Sequence[Value]) -> Sequence[Value]:
    return inputs
