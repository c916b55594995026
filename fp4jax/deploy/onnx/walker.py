"""Walker: a traced program, equation by equation, into a graph; one rule per primitive."""

from collections.abc import Callable, Sequence
from traceback import walk_tb
from typing import Any, NamedTuple

import numpy as np

from fp4jax.deploy.onnx.graph import Graph
from fp4jax.deploy.onnx.values import Value, is_static

#: (walker, equation, values of its inputs) -> values of its outputs.
Rule = Callable[["Walker", Any, Sequence[Value]], Sequence[Value]]
RULES: dict[str, Rule] = {}
#: Rules that also take constants; all others are computed by JAX where all inputs are constants.
_ALWAYS: set[str] = set()


class UnsupportedError(ValueError):
    """A program has something that cannot be written in ONNX."""


def rule(*primitives: str, constants: bool = False) -> Callable[[Rule], Rule]:
    """Makes a function the rule of primitives, by name.

    Args:
        primitives: their names.
        constants: whether the rule is also asked if all inputs are constants.
    """

    def register(function: Rule) -> Rule:
        for name in primitives:
            RULES[name] = function
            if constants:
                _ALWAYS.add(name)
        return function

    return register


class LayerCall(NamedTuple):
    """A call of a packed layer: its path, and the names of its input and output in the graph."""

    path: str
    x: str
    y: str
    # how it was written, see fp4jax.deploy.onnx.dialects.Form
    form: str


class Walker:
    """Writes programs into a graph.

    ``calls`` are the calls of packed layers that were written, in their order.

    Args:
        graph: that grows.
        dialect: how quantized layers are written; None for programs without any.
        layers: what is known of packed layers, by path.
    """

    def __init__(self, graph: Graph, dialect: Any = None, layers: Any = None):
        self.graph, self.dialect, self.layers = graph, dialect, layers or {}
        self.calls: list[LayerCall] = []

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program.

        Raises:
            UnsupportedError: a primitive that has no rule, or a use that its rule lacks.
        """
        known: dict[Any, Value] = {}
        known.update(zip(jaxpr.invars, inputs, strict=True))
        known.update((v, Value.known(c)) for v, c in zip(jaxpr.constvars, consts, strict=True))

        def read(atom: Any) -> Value:
            return Value.known(atom.val) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            outputs = self.apply(equation, [read(v) for v in equation.invars])
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def apply(self, equation: Any, inputs: Sequence[Value]) -> Sequence[Value]:
        """The outputs of one equation."""
        name = equation.primitive.name
        if _is_known(equation, inputs) and name not in _ALWAYS:
            return _computed(equation, inputs)
        if name not in RULES:
            raise UnsupportedError(
                f"the model uses {name!r}, for which there is no rule to write it in ONNX "
                f"({where(equation)}); fp4jax.deploy.onnx.walker.rule adds one."
            )
        try:
            return RULES[name](self, equation, inputs)
        except UnsupportedError as error:
            if "(" in str(error):
                raise
            raise UnsupportedError(f"{name}: {error} ({where(equation)})") from error


def where(equation: Any) -> str:
    """The line of the model that an equation comes from, and its named scopes."""
    traceback = equation.source_info.traceback
    found = None if traceback is None else traceback.as_python_traceback()
    frames = [] if found is None else list(walk_tb(found))
    own = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in frames
        if not any(part in frame.f_code.co_filename for part in _LIBRARIES)
    ]
    line = own[-1] if own else "an unknown line"
    scope = str(equation.source_info.name_stack)
    return f"{line}, in {scope}" if scope else line


# Whose lines say little about a model.
_LIBRARIES = ("/site-packages/jax/", "/site-packages/flax/", "/fp4jax/deploy/")


def _is_known(equation: Any, inputs: Sequence[Value]) -> bool:
    """Whether JAX can compute an equation here and now."""
    shapes = [v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape")]
    return all(x.array is not None and x.is_static for x in inputs) and all(map(is_static, shapes))


def _computed(equation: Any, inputs: Sequence[Value]) -> list[Value]:
    arrays = [x.whole() for x in inputs]
    outputs = equation.primitive.bind(*arrays, **equation.params)
    several = equation.primitive.multiple_results
    return [Value.known(np.asarray(y)) for y in (outputs if several else [outputs])]
