"""One message for all that is wrong with a folder of data."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_SHOWN = 10


def listed(root: Path, problems: Sequence[str]) -> str:
    """How many there are and the first ten, each on a line of its own; a single one in one line.

    Example:
        >>> listed(Path("brats"), ["BraTS20_001: modality t1 is missing"])
        '1 problem in brats: BraTS20_001: modality t1 is missing'
    """
    if len(problems) == 1:
        return f"1 problem in {root}: {problems[0]}"
    more = [f"and {len(problems) - _SHOWN} more"] * (len(problems) > _SHOWN)
    return "\n  ".join([f"{len(problems)} problems in {root}:", *problems[:_SHOWN], *more])


def refuse(root: Path, problems: Sequence[str], remedy: str) -> NoReturn:
    """Raises one ValueError with the first ten problems and what to do."""
    end = ". " if len(problems) == 1 else "\n"
    raise ValueError(listed(root, problems).rstrip(".") + end + remedy)
