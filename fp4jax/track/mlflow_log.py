"""What MLflow has of one run: its curves are those of one training, each epoch once."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fp4jax.track.protocol import Log, State

Points = dict[int, dict[str, float]]

# Clocks differ where the same epoch is trained again.
_CLOCKS = {"seconds", "waited"}
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def points_of(client: Any, run: Any) -> Points:
    """What an MLflow run has: {epoch: {name: value}}."""
    points: Points = {}
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            points.setdefault(point.step, {})[name] = point.value
    return points


def differ(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two records of an epoch are of different trainings.

    Example:
        >>> differ({"train_loss": 0.5, "seconds": 3.0}, {"train_loss": 0.5, "seconds": 4.0})
        False
        >>> differ({"train_loss": 0.5}, {"train_loss": 0.25})
        True
    """
    names = (one.keys() & other.keys()) - _CLOCKS
    # Some data bases round the last digits.
    return any(not math.isclose(one[name], other[name], rel_tol=1e-9) for name in names)


class MlflowLog(Log):
    """Sends what an MLflow run lacks; one that has other numbers stays, and a new one begins.

    Args:
        client: of MLflow.
        create: makes a new MLflow run, and returns it.
        found: the MLflow run that goes on, None: a new one.
        has: its points.
    """

    def __init__(self, client: Any, create: Callable[[], Any], found: Any, has: Points):
        self._client, self._create = client, create
        self._run = create() if found is None else found
        self._runs = self._run.info.status == "RUNNING"
        self._sent, self._told, self._times = dict(has), {}, {}

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        self._told[epoch] = dict(values)
        if differ(self._sent.get(epoch, {}), values):
            self._begin_anew()
        self._send()

    def scores(self, epoch: int, values: Mapping[str, float]) -> None:
        more = any(step > epoch for step in self._sent)
        if more or differ(self._sent.get(epoch, {}), values):
            self._begin_anew()
            self._send()
        self._log(epoch, values)

    def picture(self, name: str, png: bytes) -> None:
        *folders, stem = name.split("/")
        with tempfile.TemporaryDirectory() as room:
            path = Path(room) / f"{stem}.png"
            path.write_bytes(png)
            self._client.log_artifact(self._run.info.run_id, str(path), "/".join(folders) or None)

    def close(self, state: State) -> None:
        self._client.set_terminated(self._run.info.run_id, status=_STATUS[state])

    def _begin_anew(self) -> None:
        """A point cannot be taken back."""
        if self._runs:
            self._client.set_terminated(self._run.info.run_id, status="KILLED")
        self._run, self._sent, self._runs = self._create(), {}, True

    def _send(self) -> None:
        for epoch, values in self._told.items():
            if epoch not in self._sent:
                self._log(epoch, values)
                self._sent[epoch] = values

    def _log(self, epoch: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # pyright: ignore

        run = self._run.info.run_id
        if not self._runs:
            self._client.update_run(run, status="RUNNING")
            self._runs = True
        # The same time if it is sent again, since an answer was lost: then it is the same point.
        now = self._times.setdefault(epoch, int(1000 * time.time()))
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(run, metrics=metrics)
