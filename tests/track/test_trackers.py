"""Trackers' files read back: one point per epoch, with the numbers of metrics.jsonl."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fp4jax.analysis.results import RunResult, read_run
from fp4jax.track import tracking
from fp4jax.track.in_wandb import parts_of
from fp4jax.track.values import flat, numbers, scores
from fp4jax.train import Listener, RunFolder
from tests import fabricated_runs as fabricated
from tests.track import written

EPOCHS = 6


@pytest.fixture
def runs(tmp_path) -> list[RunResult]:
    data = fabricated.cohort()
    paths = [
        fabricated.run(tmp_path / "runs", data, epochs=EPOCHS, arch="cnn", seed=seed)
        for seed in (1, 2)
    ]
    return [run for run in map(read_run, paths) if run is not None]


def lines_of(history: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in history)


def told(listener: Listener, runs: list[RunResult], start: int, stop: int, over: bool) -> None:
    """A session that goes on after ``start`` epochs, of runs side by side."""
    for run in runs:
        path, history = run.path / "metrics.jsonl", run.history()
        text = path.read_text()
        path.write_text(lines_of(history[:start]))
        listener.starts(run.config, run.path)
        path.write_text(text)
    for epoch in range(start, stop):
        for run in runs:
            listener.epoch(run.path.name, run.history()[epoch])
    for run in runs if over else ():
        listener.ended(run.config, run.summary, run.path)


def shown_in_sessions(spec: str, runs: list[RunResult], out: Path) -> None:
    """Interrupted after four epochs, resumed from the checkpoint after two; then asked again."""
    for start, stop, over in ((0, 4, False), (2, EPOCHS, True)):
        with tracking([spec], out) as (listener,):
            told(listener, runs, start, stop, over)
    with tracking([spec], out) as (listener,):
        for run in runs:
            listener.ended(run.config, run.summary, run.path)


def expected(run: RunResult) -> dict[int, dict[str, list[float]]]:
    """One point of each number of each epoch."""
    return {r["epoch"]: {k: [v] for k, v in numbers(r).items()} for r in run.history()}


def test_tensorboard(runs, tmp_path):
    pytest.importorskip("tensorboardX")
    shown_in_sessions("tensorboard", runs, tmp_path)
    for run in runs:
        points, others = written.tensorboard(tmp_path / "tensorboard" / run.path.name)
        final = scores(run.summary)
        for epoch, values in expected(run).items():
            found = dict(points[epoch])
            if epoch == EPOCHS:
                for name, value in final.items():
                    assert found.pop(name) == [np.float32(value)]
            # TensorBoard's format has scalars in float32.
            assert found == {k: [np.float32(v)] for k, (v,) in values.items()}
        assert {"predictions", "configuration/text_summary"} <= others
        assert "_hparams_/session_start_info" in others


def test_tensorboard_in_a_folder_without_pictures(runs, tmp_path):
    pytest.importorskip("tensorboardX")
    with tracking([f"tensorboard:{tmp_path}/board"], tmp_path, pictures=False) as (listener,):
        told(listener, runs, 0, EPOCHS, True)
    points, others = written.tensorboard(tmp_path / "board" / runs[0].path.name)
    assert set(points) >= set(range(1, EPOCHS + 1))
    assert "predictions" not in others
    # Drawn nowhere else either.
    assert not (runs[0].path / "predictions.png").exists()


@pytest.fixture
def database(tmp_path) -> Iterator[str]:
    """Where MLflow keeps what it is told, if all of it is installed; its warnings are its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mlflow")
        pytest.importorskip("alembic", reason="all of mlflow")
        yield f"sqlite:///{tmp_path}/mlflow.db"


#: What it warns of outside the fixture, too.
OF_MLFLOW = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"
)


@OF_MLFLOW
@pytest.mark.slow
def test_mlflow(runs, tmp_path, database):
    shown_in_sessions(f"mlflow:{database}", runs, tmp_path)
    client, told_of = written.mlflow(database)
    found = {run.info.run_name: run for run in told_of}
    assert sorted(found) == sorted(run.path.name for run in runs)
    for run in runs:
        one = found[run.path.name]
        assert one.info.status == "FINISHED"
        names = {name for values in expected(run).values() for name in values}
        for name in names:
            curve = [(r["epoch"], numbers(r)[name]) for r in run.history()]
            assert written.mlflow_curve(client, one, name) == curve
        final = scores(run.summary)
        assert {k: one.data.metrics[k] for k in final} == final
        assert one.data.params["seed"] == str(run.config.seed)
        (picture,) = client.list_artifacts(one.info.run_id)
        assert picture.path == "predictions.png"


@pytest.mark.slow
def test_wandb(runs, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    shown_in_sessions("wandb:lab", runs, tmp_path)
    for run in runs:
        points, config, summary = written.wandb(tmp_path, run.path.name)
        names = {name for values in expected(run).values() for name in values}
        found = {
            step: {k: v for k, v in values.items() if k in names}
            for step, values in points.items()
            if names & set(values)
        }
        assert found == expected(run)
        final = scores(run.summary)
        assert {name: summary[name] for name in final} == final
        known = RunFolder(run.path).config()
        assert config["data.cohort"] == flat(known["config"])["data.cohort"]
        (part,) = parts_of(tmp_path, run.path.name)
        assert list(part.glob("files/media/images/*.png"))


@OF_MLFLOW
@pytest.mark.slow
def test_mlflow_does_not_mix_two_trainings(runs, tmp_path, database):
    """After a resumption on another machine, or of a folder that was deleted, numbers differ."""
    run = runs[0]
    told_once = [{**r, "seconds": 1.0} for r in run.history()]
    (run.path / "metrics.jsonl").write_text(lines_of(told_once))
    with tracking([f"mlflow:{database}"], tmp_path, pictures=False) as (listener,):
        told(listener, [run], 0, 4, False)
    others = [
        {**r, "seconds": 9.0, "train_loss": r["train_loss"] + (r["epoch"] > 2)} for r in told_once
    ]
    (run.path / "metrics.jsonl").write_text(lines_of(others))
    with tracking([f"mlflow:{database}"], tmp_path, pictures=False) as (listener,):
        told(listener, [run], 2, EPOCHS, True)
    client, (second, first) = written.mlflow(database)
    assert (first.info.status, second.info.status) == ("KILLED", "FINISHED")
    for one, history in ((first, told_once[:4]), (second, others)):
        for name in ("train_loss", "seconds"):
            curve = [(r["epoch"], r[name]) for r in history]
            assert written.mlflow_curve(client, one, name) == curve
