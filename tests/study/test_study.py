"""Studies: expansion, idempotence, failures, lanes, resumption."""

import dataclasses
import importlib
import json

import jax
import pytest

from fp4jax.study import Study, execute
from fp4jax.study.lanes import lanes
from fp4jax.train import run as training
from fp4jax.train.checkpoint import Checkpoints
from tests import blobs

SHARED = {
    name: getattr(blobs.config(), name)
    for name in ("model_options", "data", "image_size", "batch_size", "learning_rate", "augment")
}


def study(**changes) -> Study:
    values = {"archs": ("cnn",), "recipes": ("baseline", "full"), "epochs": 2, **SHARED}
    return Study(**{**values, **changes})


@pytest.fixture(scope="module")
def cohort():
    return blobs.cohort()


def found(outcome) -> list[dict]:
    times = ("train_seconds", "lanes")
    return [
        {k: v for k, v in folder.summary().items() if k not in times} for folder in outcome.folders
    ]


def test_expansion():
    groups = study(
        archs=("cnn", "swin"),
        recipes=("0", "5"),
        methods=("qat", "ptq"),
        splits=("cv", "holdout"),
        folds=2,
        seeds=(1, 2),
        model_options={},
        learning_rate=None,
        per_arch={"swin": {"learning_rate": 1e-4}},
    ).groups()
    assert [(g[0].arch, g[0].method, g[0].recipe) for g in groups] == [
        (arch, method, recipe)
        for arch in ("cnn", "swin")
        for method, recipe in (("qat", "baseline"), ("qat", "2d+rht+sr"), ("ptq", "2d+rht+sr"))
    ]
    members = [(run.split, run.seed) for run in groups[0]]
    assert members == [(s, n) for s in ("fold0", "fold1", "holdout") for n in (1, 2)]
    assert {run.learning_rate for g in groups for run in g if run.arch == "swin"} == {1e-4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "one or more"),
        ({"recipes": ("5", "5")}, "each once"),
        ({"recipes": ("nonsense",)}, "nonsense"),
        ({"scales": ("9m",)}, "its scales are"),
        ({"recipes": ("0",), "methods": ("ptq",)}, "further recipes"),
        ({"splits": ("fold9",)}, "5 folds"),
        ({"max_lanes": 0}, "max_lanes"),
    ],
)
def test_wrong_studies(changes, message):
    with pytest.raises(ValueError, match=message):
        study(**changes)


def test_finished_runs_are_skipped_and_shared(cohort, tmp_path, monkeypatch):
    first = execute(study(), cohort, tmp_path)
    assert first.trained == 2
    assert not first.failures
    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_group", None)  # would fail
        again = execute(study(), cohort, tmp_path)
    assert again.trained == 0
    assert found(again) == found(first)
    wider = execute(study(methods=("qat", "ptq")), cohort, tmp_path)
    assert wider.trained == 1
    assert len(wider.folders) == 3
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["fingerprint"]["patients"] == 12
    assert sorted(name for part in record["lanes"] for name in part) == sorted(
        f.path.name for f in wider.folders
    )


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


def test_killed_anywhere_ends_the_same(cohort, tmp_path, monkeypatch):
    whole = execute(study(), cohort, tmp_path / "whole")
    save = Checkpoints.save
    for cut in (1, 2, 1):
        calls = []

        def save_some(self, *args, calls=calls, cut=cut):
            save(self, *args)
            calls.append(args)
            if len(calls) == cut:
                raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_some)
            with pytest.raises(KilledError):
                execute(study(), cohort, tmp_path / "cut")
    assert found(execute(study(), cohort, tmp_path / "cut")) == found(whole)


def test_failures_are_recorded_and_retried(cohort, tmp_path, monkeypatch):
    module = importlib.import_module("fp4jax.study.execution")
    original = module.train_together

    def failing(part, *args, **kwargs):
        if part[0].recipe == "full":
            raise RuntimeError("out of luck")
        return original(part, *args, **kwargs)

    monkeypatch.setattr(module, "train_together", failing)
    outcome = execute(study(), cohort, tmp_path)
    assert outcome.trained == 1
    ((name, error),) = outcome.failures
    assert "full" in name
    assert error == "RuntimeError: out of luck"
    record = json.loads((tmp_path / "runs" / name / "failed.json").read_text())
    assert "in failing" in record["traceback"]
    monkeypatch.setattr(module, "train_together", original)
    assert execute(study(), cohort, tmp_path).failures == outcome.failures
    retried = execute(study(), cohort, tmp_path, retry=True)
    assert retried.trained == 1
    assert not retried.failures
    assert not (tmp_path / "runs" / name / "failed.json").exists()


def test_lanes_follow_from_the_study(cohort, monkeypatch):
    (group,) = study(recipes=("full",), splits=("cv", "holdout"), seeds=(1, 2)).groups()
    assert lanes(group, cohort, 10) == [[run] for run in group]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    parts = lanes(group, cohort, 4)
    assert max(map(len, parts)) == 4
    assert sorted(run.id("") for p in parts for run in p) == sorted(run.id("") for run in group)
    ptq = [dataclasses.replace(run, method="ptq") for run in group]
    assert lanes(ptq, cohort, 4) == [[run] for run in ptq]


@pytest.mark.slow
def test_folds_side_by_side(cohort, tmp_path, monkeypatch):
    """Folds as lanes of one vmap: the first epoch's losses are those of single runs."""
    one = study(recipes=("baseline",), splits=("fold0", "fold1"), epochs=1)
    alone = execute(one, cohort, tmp_path / "alone")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = execute(one, cohort, tmp_path / "together")
    assert [s.summary()["lanes"] for s in together.folders] == [2, 2]
    for a, b in zip(alone.folders, together.folders, strict=True):
        ours, theirs = a.history()[0], b.history()[0]
        for name in ("train_loss", "val_loss"):
            assert abs(ours[name] - theirs[name]) < 0.03 * abs(theirs[name])
