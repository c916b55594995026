"""The forms that a program for accelerators has, run on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
from jax import lax

from fp4jax.ops.convolution import cpu, default


def use_forms_of_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, what depends on the platform is traced and compiled as for a GPU.

    What JAX has traced before it keeps: call it with functions, or recipes, of the test's own.
    """

    def for_others(*args: Any, default: Callable[..., Any], **_: Any) -> Any:
        return default(*args)

    monkeypatch.setattr(lax, "platform_dependent", for_others)
    for product in ("gather", "scatter", "kernel_gradient"):
        monkeypatch.setattr(cpu, product, getattr(default, product))
