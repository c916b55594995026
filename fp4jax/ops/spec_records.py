"""TensorSpecs as JSON holds them, in runs and in files of packed models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fp4jax.core.number_format import format_record
from fp4jax.core.spec import TensorSpec

# Not in the records of earlier versions, whose runs keep their ids.
_LATER = ("amax", "clip", "format")
_DEFAULT = TensorSpec()


def spec_record(spec: TensorSpec | None) -> dict[str, Any] | None:
    """A spec as JSON has it; None for high precision.

    Example:
        >>> spec_record(TensorSpec(clip=0.5))["clip"], "clip" in spec_record(TensorSpec())
        (0.5, False)
    """
    if spec is None:
        return None
    block = None if spec.block is None else list(spec.block)
    record = {**dataclasses.asdict(spec), "block": block, "format": format_record(spec.format)}
    for name in _LATER:
        if getattr(spec, name) == getattr(_DEFAULT, name):
            del record[name]
    return record


def spec_of(record: Any) -> Any:
    """The spec that :func:`spec_record` made a record of; what is no record as it is.

    Raises:
        ValueError: fields that a TensorSpec does not have, or their values.

    Example:
        >>> spec = TensorSpec(amax="row", rounding="stochastic")
        >>> spec_of(spec_record(spec)) == spec
        True
    """
    if not isinstance(record, Mapping):
        return record
    check_known({field.name for field in dataclasses.fields(TensorSpec)}, record, "a TensorSpec")
    return TensorSpec(**record)


def check_known(known: set[str], record: Mapping[str, Any], what: str) -> None:
    """ValueError for fields of a record that are not known; ``what`` starts the message."""
    if unknown := sorted(set(record) - known):
        raise ValueError(
            f"{what} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}. It may have "
            "been written by a newer version of fp4jax."
        )
