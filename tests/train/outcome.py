"""What must be equal, bit for bit, in two runs of one configuration."""

from typing import Any

import jax
import numpy as np

from fp4jax.train import RunFolder, read_trained

#: What depends on the clock.
_TIMES = ("seconds", "train_seconds", "waited")


def history(folder: RunFolder) -> list[dict[str, Any]]:
    return [_timeless(record) for record in folder.history()]


def summary(folder: RunFolder) -> dict[str, Any]:
    found = folder.summary()
    assert found is not None, folder.status()
    return _timeless(found)


def arrays(folder: RunFolder) -> list[np.ndarray]:
    """Of the best epoch."""
    model = read_trained(folder.path).model()
    return [np.asarray(leaf) for leaf in jax.tree.leaves((model.params, model.stats))]


def assert_same(one: RunFolder, other: RunFolder) -> None:
    """Folder's name, history, summary and parameters."""
    assert one.path.name == other.path.name
    assert history(one) == history(other)
    assert summary(one) == summary(other)
    assert all(map(np.array_equal, arrays(one), arrays(other)))


def contents(folder: RunFolder) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of every file of a folder."""
    return {
        str(path.relative_to(folder.path)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.path.rglob("*"))
        if path.is_file()
    }


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in _TIMES}
