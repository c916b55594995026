"""Optional packages: imported where they are used, and absent ones name the extra that has them."""

from types import TracebackType
from typing import Literal

#: Packages whose modules have another name.
_PACKAGES = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}


class Extra:
    """Imports from an optional package belong into ``with Extra("study"):``.

    An absent one is the same ModuleNotFoundError, with a message that says what to install. This
    package's own modules may be imported in the block too, which covers what they import.

    Args:
        name: of the extra in pyproject.toml.

    Raises:
        ModuleNotFoundError: a package is not installed.

    Example:
        >>> with Extra("study"):
        ...     import absent_package
        Traceback (most recent call last):
        ...
        ModuleNotFoundError: absent_package is not installed: pip install 'fp4jax[study]'
    """

    def __init__(self, name: Literal["study", "deploy", "bench", "ray", "track"]):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, ModuleNotFoundError) or error.name is None:
            return
        module = error.name.partition(".")[0]
        if module == __package__:  # a mistake of ours: no installation mends it
            return
        raise ModuleNotFoundError(
            f"{_PACKAGES.get(module, module)} is not installed: pip install 'fp4jax[{self.name}]'",
            name=error.name,
        ) from None
