"""Values of options: text of a command line, or JSON, as the type that an annotation names."""

import collections.abc
import inspect
import json
import numbers
import types
import typing
from typing import Any, Literal

_SEQUENCES = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)
_WORDS = {"true": True, "false": False}


class UnfitError(Exception):
    """A value that is no value of an annotation."""


def convert(value: Any, annotation: Any) -> Any:
    """A value, or the text of one, as a value of an annotation.

    Understands int, float, bool, str, None, Literal, tuple, list and Sequence of them, and unions.
    Sequences become tuples; text has their elements with commas between them or as JSON, and one
    element alone is a sequence of it where a sequence is wanted. An int is a float where a float is
    wanted. What has no annotation is taken as the text looks like.

    Raises:
        UnfitError: the value does not fit.

    Example:
        >>> convert("4,8", tuple[int, ...]), convert("2", tuple[int, ...])
        ((4, 8), (2,))
        >>> convert("[[2, 1], 2]", tuple[int | tuple[int, ...], ...])
        ((2, 1), 2)
        >>> convert("0", float | None), convert("none", float | None), convert("true", bool)
        (0.0, None, True)
    """
    if annotation is Any or annotation is inspect.Parameter.empty:
        return _as_it_looks(value)
    parts = typing.get_args(annotation)
    match typing.get_origin(annotation) or annotation:
        case typing.Annotated:
            return convert(value, parts[0])
        case types.UnionType | typing.Union:
            return _of_union(value, parts)
        case kind if kind is Literal:
            return _of_literal(value, parts)
        case kind if kind in _SEQUENCES:
            return _sequence(value, parts)
        case kind:
            return _scalar(value, kind)


def _of_union(value: Any, parts: tuple) -> Any:
    for part in members(parts):
        try:
            return convert(value, part)
        except UnfitError:
            continue
    raise UnfitError


def members(parts: tuple) -> list[Any]:
    """Of a union, in the order in which a text is tried; no int beside a float."""
    order = (type(None), bool, int, float)
    kept = [part for part in parts if not (part is int and float in parts)]

    def place(part: Any) -> int:
        if part in order:
            return order.index(part)
        return len(order) + (part is str)  # any text is a str, so that comes last

    return sorted(kept, key=place)


def _of_literal(value: Any, allowed: tuple) -> Any:
    for one in allowed:
        if (type(value) is type(one) and value == one) or value == str(one):
            return one
    raise UnfitError


def _sequence(value: Any, parts: tuple) -> tuple:
    values = _elements(value)
    if parts[1:] and parts[1] is not ...:  # of so many
        if len(values) != len(parts):
            raise UnfitError
        return tuple(map(convert, values, parts))
    kind = parts[0] if parts else Any
    return tuple(convert(one, kind) for one in values)


def _elements(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return list(value)
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if text[:1] in ("[", "("):
        text = text.replace("(", "[").replace(")", "]").replace(" ", "").replace(",]", "]")
        try:
            return list(json.loads(text))
        except (ValueError, TypeError):
            raise UnfitError from None
    return [part.strip() for part in text.removesuffix(",").split(",")]


def _scalar(value: Any, kind: Any) -> Any:
    text = value.strip() if isinstance(value, str) else None
    if kind is type(None) or kind is None:
        if value is None or (text is not None and text.lower() == "none"):
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if text is not None and text.lower() in _WORDS:
            return _WORDS[text.lower()]
    elif kind in (int, float):
        accepted: Any = numbers.Integral if kind is int else numbers.Real
        if isinstance(value, accepted) and not isinstance(value, bool):
            return kind(value)
        if text is not None:
            try:
                return kind(text)
            except ValueError:
                raise UnfitError from None
    elif kind is str:
        if text is not None:
            return value
    elif isinstance(kind, type):
        if isinstance(value, kind):
            return value
    elif text is None:  # a type that is not known here: left to the model
        return value
    raise UnfitError


def _as_it_looks(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_as_it_looks, value))
    if not isinstance(value, str):
        return value
    kinds = (None, bool, int, float)
    if "," in value or value[:1] in ("[", "("):
        kinds = (tuple,)
    for kind in kinds:
        try:
            return convert(value, kind)
        except UnfitError:
            continue
    return value


def described(annotation: Any) -> str:
    """What values an annotation allows, for people.

    Example:
        >>> described(int | tuple[int, ...])
        'an integer or a list of integers (4,8)'
        >>> described(Literal["batch", "instance"])
        "'batch', 'instance'"
    """
    return _described(annotation, _ONE)


_ONE = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_ONE |= {type(None): "none"}
_MANY = {int: "integers", float: "numbers", bool: "true or false", str: "texts"}


def _described(annotation: Any, words: dict[Any, str]) -> str:
    parts = typing.get_args(annotation)
    match typing.get_origin(annotation) or annotation:
        case typing.Annotated:
            return _described(parts[0], words)
        case types.UnionType | typing.Union:
            return " or ".join(_described(part, words) for part in members(parts))
        case kind if kind is Literal:
            return ", ".join(map(repr, parts))
        case kind if kind in _SEQUENCES:
            inner = _described(parts[0], _MANY) if parts else "values"
            example = " (4,8)" if inner == "integers" and words is _ONE else ""
            return f"{'a list' if words is _ONE else 'lists'} of {inner}{example}"
        case kind:
            return words.get(kind) or getattr(kind, "__name__", str(kind))


def placeholder(annotation: Any) -> str:
    """What stands for a value in the help of a command.

    Example:
        >>> placeholder(tuple[int, ...]), placeholder(float | int), placeholder(bool)
        ('INT [INT ...]', 'FLOAT', '{true,false}')
    """
    parts = typing.get_args(annotation)
    match typing.get_origin(annotation) or annotation:
        case typing.Annotated:
            return placeholder(parts[0])
        case types.UnionType | typing.Union:
            return "|".join(placeholder(part) for part in members(parts))
        case kind if kind is Literal:
            return "{" + ",".join(map(str, parts)) + "}"
        case kind if kind in _SEQUENCES:
            one = placeholder(parts[0]) if parts else "VALUE"
            # Words are divided at blanks, lists within a list at commas.
            return f"{one} [{one} ...]" if one.isalpha() else f"{one.split(' ')[0]},... ..."
        case kind:
            known = {int: "INT", float: "FLOAT", str: "STR", type(None): "none"}
            return {**known, bool: "{true,false}"}.get(kind, "VALUE")
