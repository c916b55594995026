"""Recipes on the command line: names, or rules for layers in a file."""

import json
from pathlib import Path
from typing import Any

from fp4jax.cli.parsing import at_home


def recipe_of(text: str) -> Any:
    """What ``--recipe`` says: a name or id as it is, the value in ``@FILE`` or in JSON.

    Raises:
        ValueError: no such file, or no JSON.

    Example:
        >>> recipe_of("full"), recipe_of('{"head": null, ".*": "full"}')
        ('full', {'head': None, '.*': 'full'})
    """
    if not text.startswith(("@", "{", "[")):
        return text
    path = at_home(Path(text[1:])) if text.startswith("@") else None
    if path is not None and not path.is_file():
        raise ValueError(f"--recipe {text}: there is no file {path}; give one with rules as JSON.")
    try:
        return json.loads(text if path is None else path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"--recipe {text} is no JSON: {error}.") from error


def text_of(recipe: Any) -> str:
    """The inverse of :func:`recipe_of`, for a recipe or rules of any kind."""
    return recipe if isinstance(recipe, str) else json.dumps(recipe.to_json())
