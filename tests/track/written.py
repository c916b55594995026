"""What trackers wrote, read back from their files: {step: {name: value}} and more."""

import collections
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Points = dict[int, dict[str, list[float]]]

_BLOCK, _HEADER = 1 << 15, 7


def tensorboard(folder: Path) -> tuple[Points, set[str]]:
    """Scalars of all event files of a run, every point of them, and the tags of everything else."""
    from tensorboardX.proto import event_pb2

    points: Points = collections.defaultdict(lambda: collections.defaultdict(list))
    others = set()
    for path in folder.glob("events.out.tfevents.*"):
        for record in _tf_records(path.read_bytes()):
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    points[event.step][value.tag].append(value.simple_value)
                else:
                    others.add(value.tag)
    return points, others


def wandb(folder: Path, run: str) -> tuple[Points, dict[str, Any], dict[str, Any]]:
    """History, configuration and summary of all offline files of a run."""
    from wandb.proto import wandb_internal_pb2

    from fp4jax.track.in_wandb import parts_of

    points: Points = collections.defaultdict(lambda: collections.defaultdict(list))
    config, summary = {}, {}
    for part in parts_of(folder, run):
        for data in _level_db((part / f"run-{run}.wandb").read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            config |= _items(record.run.config.update)
            summary |= _items(record.summary.update)
            row = _items(record.history.item)
            step = row.pop("_step", record.history.step.num)
            for name, value in row.items():
                points[step][name].append(value)
    return points, config, summary


def mlflow(uri: str) -> tuple[Any, list[Any]]:
    """MLflow's client, and the runs of fp4jax's experiment, the last first."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("fp4jax").experiment_id
    return client, list(client.search_runs([experiment]))


def mlflow_curve(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    """Every point of a number."""
    points = client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def _items(items: Any) -> dict[str, Any]:
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for item in items
        if not (item.key or item.nested_key[0]).startswith("_") or item.key == "_step"
    }


def _tf_records(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        yield data[place + 12 : place + 12 + size]
        place += size + 16


def _level_db(data: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format, after the header of the file."""
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + _HEADER : place + _HEADER + size]
        place += _HEADER + size
        if kind in (1, 4):  # full, last
            yield parts
            parts = b""
