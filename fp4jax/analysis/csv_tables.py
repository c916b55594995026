"""Tables as CSV files: written in one step, read back as what they were."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from fp4jax.extras import Extra
from fp4jax.files import replacing

if TYPE_CHECKING:
    import pandas as pd

# Of numbers that are undefined.
_NAN = ["", "nan", "NaN"]


def write_csv(frame: "pd.DataFrame", path: Path, digits: int | None = 6) -> Path:
    """Writes a table in one step; equal tables give equal bytes.

    Args:
        frame: the table, without its index.
        path: of the file, which is replaced; missing folders are made.
        digits: of numbers; None: all. Six are more than a few dozen patients know, and are the same
            on every processor that trained alike.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    form = None if digits is None else f"%.{digits}g"
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=form, lineterminator="\n")
    return path


def read_csv(
    path: Path, text: Collection[str], needed: Collection[str] = (), numbers: Collection[str] = ()
) -> "pd.DataFrame":
    """Reads what :func:`write_csv` wrote; text stays text, also where it looks like a number.

    Args:
        path: of the file.
        text: columns of text, in which nothing is undefined: an empty cell is "".
        needed: columns that must be there.
        numbers: those of them that hold numbers; undefined ones are NaN.

    Raises:
        ValueError: the file is no such table.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = pd.DataFrame({"patient": ["007", "NA"], "dice": [0.5, float("nan")]})
        ...     path = write_csv(rows, Path(folder) / "patients.csv")
        ...     found = read_csv(path, ["patient"], ["patient", "dice"], ["dice"])
        >>> found["patient"].tolist(), found["dice"].tolist()
        (['007', 'NA'], [0.5, nan])
    """
    with Extra("study"):
        import pandas as pd

    names = f"it must be a table with the columns {', '.join(needed)}" if needed else "no table"
    try:
        header = list(pd.read_csv(path, nrows=0, index_col=False).columns)
        frame = pd.read_csv(
            path,
            dtype={name: str for name in header if name in text},
            keep_default_na=False,
            na_values={name: _NAN for name in header if name not in text},
        )
    except ValueError as error:  # of the parser, and of bytes that are no UTF-8
        raise ValueError(f"{path}: {names}; {str(error).splitlines()[0]}.") from error
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; {names}.")
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"{path} has rows that are longer than its header; {names}.")
    words = [name for name in numbers if not pd.api.types.is_numeric_dtype(frame[name])]
    if words and len(frame):
        raise ValueError(f"{path} has text in the column {', '.join(words)} of numbers; {names}.")
    return frame


def header_of(path: Path) -> list[str]:
    """Names of the columns of a CSV file; none if there is no such file."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().rstrip("\r\n").split(",")
    except (OSError, UnicodeDecodeError):
        return []
