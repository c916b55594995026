"""Rows of data frames by the values of their columns."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

GROUP = ("arch", "scale", "label")


def where(frame: "pd.DataFrame", which: Any = True, **values: Any) -> "pd.DataFrame":
    """The rows where ``which``, and where each column named has the value given.

    Example:
        >>> import pandas as pd
        >>> len(where(pd.DataFrame({"arch": ["cnn", "vit"]}), arch="cnn"))
        1
    """
    for column, value in values.items():
        which = which & (frame[column] == value)
    return frame.loc[which]  # pyright: ignore[reportReturnType]


def defined(frame: "pd.DataFrame", column: str) -> np.ndarray:
    """(rows,) bool: where the column is neither None nor NaN.

    Example:
        >>> import pandas as pd
        >>> defined(pd.DataFrame({"x": [0.5, None]}), "x").tolist()
        [True, False]
    """
    return frame[column].notna().to_numpy()


def by_group(frame: "pd.DataFrame") -> dict[tuple, dict[str, Any]]:
    """Each row as a dict, by its architecture, scale and label.

    Example:
        >>> import pandas as pd
        >>> row = pd.DataFrame({"arch": ["cnn"], "scale": ["4m"], "label": ["full"], "n": [3]})
        >>> by_group(row)["cnn", "4m", "full"]["n"]
        3
    """
    if not len(frame):
        return {}
    records: list[dict[str, Any]] = frame.to_dict(orient="records")  # pyright: ignore
    return {tuple(record[key] for key in GROUP): record for record in records}
