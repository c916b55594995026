"""How many kernels XLA:CPU compiles for a program: equal ones are compiled once."""

import re
from collections.abc import Callable
from typing import Any

import jax


def distinct_kernels(function: Callable[..., Any], *args: Any) -> int:
    """Fused computations that differ in more than names."""
    text = jax.jit(function).lower(*args).compile().as_text() or ""
    bodies = re.findall(r"^%fused_computation[^\n]*\n(.*?)^}", text, re.DOTALL | re.MULTILINE)
    return len({_without_names(body) for body in bodies})


def _without_names(body: str) -> str:
    names: dict[str, str] = {}
    body = re.sub(r", metadata=\{[^}]*\}", "", body)
    return re.sub(r"%[\w.\-]+", lambda m: names.setdefault(m[0], f"%{len(names)}"), body)
