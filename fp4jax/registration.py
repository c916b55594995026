"""Registry: models, losses, data sets and recipes by name, the package's own and users'."""

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# Names are parts of the names of folders.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class Registry(Generic[T]):
    """Values of one kind by name, in the order in which they were added.

    Args:
        kind: what messages call a value: "model", "loss".

    Example:
        >>> colours = Registry("colour")
        >>> colours.add("red", 0xFF0000)
        >>> colours.add("red", 0xFF0000)  # the same once more: a module that is imported twice
        >>> colours.add("red", 0xCC0000)
        Traceback (most recent call last):
        ...
        ValueError: there is another colour 'red' already; register yours under another name.
        >>> colours.find("blue")
        Traceback (most recent call last):
        ...
        ValueError: no colour 'blue'; known names: red.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._values: dict[str, T] = {}

    def add(self, name: str, value: T) -> None:
        """Adds a value; nothing happens if the name has this very value, or an equal one.

        Raises:
            ValueError: the name is taken by another value, or no name.
        """
        self.check(name)
        if name not in self._values:
            self._values[name] = value
        elif self._values[name] is not value and self._values[name] != value:
            raise ValueError(
                f"there is another {self.kind} {name!r} already; register yours under another name."
            )

    def check(self, name: object) -> None:
        """Raises ValueError for what cannot be a name."""
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ValueError(
                f"the name of a {self.kind} is {name!r}; use letters, digits, and _ . + - in it."
            )

    def find(self, name: str) -> T:
        """The value of that name.

        Raises:
            ValueError: there is none; the message lists the known names.
        """
        if name not in self:
            raise ValueError(f"no {self.kind} {name!r}; known names: {', '.join(self)}.")
        return self._values[name]

    def remove(self, name: str) -> None:
        """Forgets a name, so that examples and tests leave nothing behind."""
        del self._values[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)
