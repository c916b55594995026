"""What tests of the diagnosis share: a model's states, and values of its table."""

from typing import Any

from flax import nnx


def parts(model: nnx.Module) -> tuple[Any, Any]:
    """Parameters and statistics."""
    return nnx.split(model, nnx.Param, nnx.BatchStat, ...)[1:3]


def values(rows, **where) -> list[float]:
    """Of the rows whose columns have these values."""
    return [r["value"] for r in rows if all(r[key] == value for key, value in where.items())]


def states_of(model: nnx.Module) -> dict[str, Any]:
    """What is diagnosed: the state that it has now."""
    return {"init": parts(model)}
