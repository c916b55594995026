"""Targets: the forms that a model can take outside of JAX, by name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from fp4jax.deploy.account import Account
from fp4jax.deploy.subject import Subject
from fp4jax.registration import Registry

Half = Literal["bfloat16", "float16", "float32"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model is exported; a target says what it has no use for.

    Attributes:
        batch: images of a call; None for any number. Each is quantized as if it were alone.
        channels_first: whether images and logits are (batch, channels, *space).
        bound: largest difference of a part of the file from the packed model, over the largest
            magnitude, that is no error.
        half: the type of what runs in 16 bits on the target ("onnx-trt": convolutions); "float32"
            writes the packed model itself, to the last bit of its sums.
    """

    batch: int | None = None
    channels_first: bool = False
    bound: float = 1e-4
    half: Half = "bfloat16"

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(
                f"batch is {self.batch}; give 1 or more, or leave it out for any number."
            )
        if not self.bound > 0:
            raise ValueError(f"bound is {self.bound}; give a positive number, such as 1e-4.")
        if self.half not in (allowed := get_args(Half)):
            raise ValueError(f"half is {self.half!r}; allowed: {', '.join(allowed)}.")


@dataclasses.dataclass(frozen=True)
class Target:
    """A form of a model outside of JAX.

    Attributes:
        name: such as "onnx-trt".
        summary: what reads it, in a line.
        write: (subject, path that does not exist, options) -> account. It checks what it wrote
            against the packed model, and leaves nothing if that, or writing, fails.
        static: whether it needs static scales of activations; runs are read with theirs then.
    """

    name: str
    summary: str
    write: Callable[[Subject, Path, Options], Account]
    static: bool = False


_TARGETS: Registry[Target] = Registry("target")


def register_target(target: Target) -> None:
    """Makes a target known to :func:`fp4jax.deploy.export` and to the command, by its name.

    Raises:
        ValueError: the name is taken by another target.

    Example:
        >>> def write(subject, path, options):
        ...     _ = path.write_text(subject.about.to_json())
        ...     return Account(path, "about", path.stat().st_size, 0, (), "nothing to check")
        >>> register_target(Target("about", "what makes the model, as JSON", write))
        >>> "about" in target_names()
        True
        >>> _TARGETS.remove("about")
    """
    _TARGETS.add(target.name, target)


def target_names() -> tuple[str, ...]:
    """The names of all targets.

    Example:
        >>> import fp4jax.deploy
        >>> target_names()[:3]
        ('onnx-portable', 'onnx-standard', 'onnx-trt')
    """
    return tuple(_TARGETS)


def get_target(name: str) -> Target:
    """The target of a name.

    Raises:
        ValueError: there is none.
    """
    return _TARGETS.find(name)
