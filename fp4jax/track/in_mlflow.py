"""MLflow: a run of an experiment for each run, on a server or in a data base file."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fp4jax.extras import Extra
from fp4jax.track.mlflow_file import complete, refused
from fp4jax.track.mlflow_log import MlflowLog, differ, points_of
from fp4jax.track.protocol import Log, Tracked, Tracker
from fp4jax.track.values import numbers
from fp4jax.train.folder import RunFolder

_TAG = "fp4jax.run"
# Servers take so many parameters at a time, and values of so many characters.
_AT_ONCE, _LONGEST = 100, 500
# URIs of data bases begin so.
_DATA_BASES = {"sqlite", "postgresql", "mysql", "mssql"}


class Mlflow(Tracker):
    """Writes to MLflow: metrics, parameters, pictures as artifacts.

    The experiment is that of ``MLFLOW_EXPERIMENT_NAME``, else ``fp4jax``. A run is known again by
    its tag ``fp4jax.run``, its id, and its numbers: one that goes on continues its curves. What
    MLflow has of an epoch cannot be taken back. So epochs after a checkpoint that are trained again
    are not sent again if they have the same numbers, as on the same machine; if they have others,
    or the run was trained anew elsewhere, an MLflow run of the same name begins.

    Args:
        target: a tracking URI, such as ``http://host:5000`` or ``sqlite:///runs/mlflow.db``;
            default: that of ``MLFLOW_TRACKING_URI``.
        out: pictures go here if the runs go to a data base file.

    Raises:
        ValueError: there is no URI; or it is that of a data base, and of MLflow only the client is
            installed (mlflow-skinny, as the extra ``track`` has it); or that of a folder, which
            MLflow gives up.
        ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(self, target: str, out: Path):
        # Nothing is sent to anybody that nobody asked for.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with Extra("track"):
            import mlflow  # noqa: F401  # pyright: ignore
        self.uri = target or os.environ.get("MLFLOW_TRACKING_URI", "")
        if not self.uri:
            raise ValueError(
                "track is mlflow, without a URI; give mlflow:http://HOST:5000, "
                "mlflow:sqlite:///FILE.db, or set MLFLOW_TRACKING_URI."
            )
        if self.uri.partition(":")[0].partition("+")[0] in _DATA_BASES and not _whole():
            raise ValueError(
                f"track is mlflow:{self.uri}, a data base, which mlflow-skinny cannot write; start "
                f"`mlflow server --backend-store-uri {self.uri}` in an environment of its own and "
                "give its address, or install all of mlflow here."
            )
        why = refused(self.uri)
        if why is not None:
            raise ValueError(
                f"track is mlflow:{self.uri}, which this MLflow does not write to; give "
                "mlflow:sqlite:///FILE.db, or for a folder set MLFLOW_ALLOW_FILE_STORE=true. "
                f"MLflow says: {why}"
            )
        self.out = out
        self._known: tuple[Any, str] | None = None

    def open(self, run: Tracked) -> Log:
        """The MLflow run with the id and the numbers, or a new one."""
        client, _ = self._connected()
        history = {r["epoch"]: numbers(r) for r in RunFolder(run.folder).history()}
        for found in self._found(run.name):
            has = points_of(client, found)
            if not any(differ(has.get(epoch, {}), own) for epoch, own in history.items()):
                return MlflowLog(client, lambda: self._create(run), found, has)
        return MlflowLog(client, lambda: self._create(run), None, {})

    def has(self, run: Tracked) -> bool:
        """By the status of an MLflow run, and its last epoch."""
        *_, last = [{}, *RunFolder(run.folder).history()]
        return any(
            found.info.status == "FINISHED" and not differ(found.data.metrics, numbers(last))
            for found in self._found(run.name)
        )

    def _found(self, name: str) -> list[Any]:
        """The MLflow runs of a run, the latest first."""
        client, experiment = self._connected()
        return list(client.search_runs([experiment], f"tags.`{_TAG}` = '{name}'", max_results=20))

    def _create(self, run: Tracked) -> Any:
        client, experiment = self._connected()
        tags = {_TAG: run.name, "group": run.group}
        made = client.create_run(experiment, run_name=run.name, tags=tags)
        self._describe(client, made.info.run_id, run.config)
        return made

    def _connected(self) -> tuple[Any, str]:
        """Client, and id of the experiment; from the thread that writes, since it may take long."""
        if self._known is None:
            from mlflow import MlflowClient  # pyright: ignore

            if self.uri.startswith("sqlite"):
                complete(self.uri)
            client = MlflowClient(tracking_uri=self.uri)
            self._known = client, self._experiment(client)
        return self._known

    def _experiment(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException  # pyright: ignore

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fp4jax")
        found = client.get_experiment_by_name(name)
        if found is None:
            # MLflow's own choice is a folder where the command was called.
            place = (self.out / "mlflow").absolute().as_uri()
            where = {"artifact_location": place} if self.uri.startswith("sqlite") else {}
            try:
                return client.create_experiment(name, **where)
            except MlflowException:
                # Another process has just made it.
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def _describe(self, client: Any, run_id: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param  # pyright: ignore

        params = [Param(name, str(value)[:_LONGEST]) for name, value in config.items()]
        for start in range(0, len(params), _AT_ONCE):
            client.log_batch(run_id, params=params[start : start + _AT_ONCE])


def _whole() -> bool:
    """Whether MLflow's own stores are installed, not only its client."""
    return all(importlib.util.find_spec(name) for name in ("sqlalchemy", "alembic"))
