"""What trackers are told: the numbers of an epoch, of a summary, and a flat configuration."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Of a summary, what is a number of the whole run; best_epoch is a curve already.
_OF_RUN = ("threshold", "epochs_run", "train_seconds", "parameters")


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's record, by its names; those that are not finite are left out.

    Example:
        >>> numbers({"epoch": 3, "train_loss": 0.5, "val_auprc": None, "best_epoch": 2})
        {'train_loss': 0.5, 'best_epoch': 2.0}
    """
    return {k: float(v) for k, v in record.items() if k != "epoch" and _is_number(v)}


def scores(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a ``summary.json``, without those of single patients.

    Scores of the validation patients, which are those of the best epoch, have ``best_`` in front:
    ``val_auprc`` is a curve.

    Example:
        >>> scores({"threshold": 0.4, "val": {"auprc": 0.8}, "test": {"auprc": 0.7, "bins": [1]}})
        {'threshold': 0.4, 'best_val_auprc': 0.8, 'test_auprc': 0.7}
        >>> scores({"test_regions": {"core": {"dice": 0.5}}, "test_patients": {"a": 0.6}})
        {'test_core_dice': 0.5}
    """
    found: dict[str, Any] = {name: summary.get(name) for name in _OF_RUN}
    found |= _parts(summary)
    static = summary.get("static", {})
    found |= {f"static_{name}": value for name, value in _parts(static).items()}
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def flat(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Records within a record with dots in their names; what is None or empty is left out.

    Example:
        >>> flat({"arch": "cnn", "data": {"channels": ["pre", "flair"]}, "keep": None})
        {'arch': 'cnn', 'data.channels': 'pre, flair'}
    """
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        elif isinstance(value, list | tuple):
            if value:
                found[before + key] = ", ".join(map(str, value))
        elif value is not None:
            found[before + key] = value
    return found


def _parts(summary: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_named(summary))


def _named(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in summary.get("val", {}).items():
        yield f"best_val_{name}", value
    for name, value in summary.get("test", {}).items():
        yield f"test_{name}", value
    for region, own in summary.get("test_regions", {}).items():
        for name, value in own.items():
            yield f"test_{region}_{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
