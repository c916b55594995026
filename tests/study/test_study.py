"""Studies: expansion, idempotence, failures, lanes, resumption."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest

from fp4jax.ops.recipe import get_recipe
from fp4jax.study import Study, execute, read_records
from fp4jax.study.engines import local
from fp4jax.study.lanes import lanes
from fp4jax.study.live import Table
from fp4jax.train import BusyError, Listener, SliceData, Volumes, run as training
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.lane import Lane
from tests import blobs

SHARED = {
    name: getattr(blobs.config(), name)
    for name in ("data", "model_options", "batch_size", "learning_rate")
}


def study(**changes) -> Study:
    values = {"archs": ("cnn",), "recipes": ("baseline", "full"), "epochs": 2, **SHARED}
    return Study(**{**values, **changes})


@pytest.fixture(scope="module")
def cohort():
    return blobs.cohort()


def test_a_recipe_of_ones_own_and_equal_runs():
    own = dataclasses.replace(get_recipe("full"), name="mine", residuals="original")
    one = study(recipes=("baseline", own), methods=("qat", "qad"), distill_ratio=0.5)
    baseline, trained, distilled = one.runs()
    assert (trained.recipe, trained.recipe_name) == (own, "mine")
    # What distillation is plays no part in the others: the teacher is the study's baseline.
    assert distilled.teacher() == baseline
    assert distilled.distill_ratio == 0.5
    assert json.loads(json.dumps(one.to_json()))["recipes"][1]["name"] == "mine"
    assert len(study(splits=("fold0", "fold00")).runs()) == 2


def test_volumes_have_their_own_defaults():
    one = Study(Volumes(patch_size=(32, 32, 32)), recipes=("0",), splits=("cv",), folds=3)
    assert (one.archs, one.scales, one.batch_size) == (("swin_unetr",), ("4m",), 2)
    assert [run.split for run in one.runs()] == ["fold0", "fold1", "fold2"]


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
        ({"recipes": ("full", dataclasses.replace(get_recipe("5"), name="full"))}, "each once"),
    ],
)
def test_wrong_studies(changes, message):
    with pytest.raises(ValueError, match=message):
        study(**changes)


class Told(Listener):
    """Remembers who ended, and how."""

    def __init__(self):
        self.ends = []

    def ended(self, run, summary, folder):
        self.ends.append((run.recipe_name, run.method, summary is not None))


def test_finished_runs_are_skipped_and_shared(cohort, tmp_path, monkeypatch):
    first = execute(study(), cohort, tmp_path)
    assert first.trained == 2
    assert not first.failures
    told = Told()
    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_group", None)  # would fail
        again = execute(study(), cohort, tmp_path, listener=told)
    assert again.trained == 0
    assert not again.changed
    assert told.ends == [("baseline", "qat", True), ("full", "qat", True)]
    assert found(again) == found(first)
    wider = execute(study(methods=("qat", "ptq")), cohort, tmp_path, name="wider")
    assert wider.trained == 1
    assert len(wider.folders) == 3
    records = read_records(tmp_path)
    assert [record.name for record in records] == ["study", "wider"]
    assert records[0].data["patients"] == 12
    assert "crc32" not in records[0].data
    assert list(records[1].runs) == [folder.path.name for folder in wider.folders]


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


def test_killed_anywhere_ends_the_same(cohort, tmp_path, monkeypatch):
    whole = execute(study(), cohort, tmp_path / "whole")
    save = Checkpoints.save
    for cut in (1, 1):
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


def failing(recipe, error, calls=None):
    """``train_together`` that fails for one recipe."""

    def train_together(part, *args, **kwargs):
        if calls is not None:
            calls.append((part[0].recipe_name, part[0].method))
        if part[0].recipe_name == recipe and part[0].method == "qat":
            raise error
        return training.train_together(part, *args, **kwargs)

    return train_together


def test_failures_are_recorded_and_retried(cohort, tmp_path):
    error = RuntimeError("out of luck")
    outcome = execute(study(), cohort, tmp_path, train=failing("full", error))
    assert outcome.trained == 1
    ((name, said),) = outcome.failures
    assert "full" in name
    assert said == "RuntimeError: out of luck"
    record = json.loads((tmp_path / "runs" / name / "failed.json").read_text())
    assert "train_together" in record["traceback"]
    assert execute(study(), cohort, tmp_path).failures == outcome.failures
    retried = execute(study(), cohort, tmp_path, retry=True)
    assert retried.trained == 1
    assert not retried.failures
    assert not (tmp_path / "runs" / name / "failed.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_ends_a_study_is_no_failure_of_a_run(error, cohort, tmp_path):
    with pytest.raises(type(error)):
        execute(study(recipes=("full",)), cohort, tmp_path, train=failing("full", error))
    assert not list(tmp_path.rglob("failed.json"))


def test_a_baseline_that_diverged_fails_its_students_and_nobody_else(cohort, tmp_path, monkeypatch):
    """Nor is it trained again for each of them; two seeds, of which one diverges."""
    took, steps = Lane.took, []

    def took_badly(self, values):
        steps.append(self.name)
        if self.config.recipe == "baseline" and self.config.seed == 2:
            values = {**values, "loss": values["loss"] * float("nan")}
        return took(self, values)

    one = study(methods=("qat", "qad", "ptq"), recipes=("baseline", "forward_only"), seeds=(1, 2))
    for retry in (False, True):
        steps.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Lane, "took", took_badly)
            outcome = execute(one, cohort, tmp_path, retry=retry)
        seeds = [folder.summary()["seed"] for folder in outcome.folders]
        assert seeds == [1, 1, 2, 1, 1]
        baseline, *students = outcome.failures
        assert "loss is nan at step 0" in baseline[1]
        assert [text.split(" has failed")[0] for _, text in students] == [
            f"DivergedError: its baseline {baseline[0]}"
        ] * 2
        assert 0 < steps.count(baseline[0]) < 5
    steps.clear()
    assert execute(one, cohort, tmp_path).failures == outcome.failures
    retried = execute(one, cohort, tmp_path, retry=True)
    assert not retried.failures
    assert retried.trained == 3


def test_a_run_of_another_process_is_left_for_the_end(cohort, tmp_path, monkeypatch):
    calls, busy = [], [BusyError(tmp_path, None)] * 2

    def train_together(part, *args, **kwargs):
        calls.append(part[0].recipe_name)
        if part[0].recipe_name == "baseline" and busy:
            raise busy.pop()
        return training.train_together(part, *args, **kwargs)

    monkeypatch.setattr(local, "_POLL", 0.01)
    outcome = execute(study(epochs=1), cohort, tmp_path, train=train_together)
    assert calls == ["baseline", "full", "baseline", "baseline"]
    assert outcome.trained == 2
    assert not outcome.failures


def start(out, *seeds):
    command = [sys.executable, "-m", "tests.study.small_study", str(out), *map(str, seeds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def summaries(out):
    return {
        path.parent.name: {
            key: value
            for key, value in json.loads(path.read_text()).items()
            if key != "train_seconds"
        }
        for path in out.glob("runs/*/summary.json")
    }


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    """Each run is trained once; both end well with all of them."""
    processes = [start(tmp_path, 1, 2) for _ in range(2)]
    ends = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    for out, _ in ends:
        assert "finished 4 failures 0" in out
    for folder in (tmp_path / "runs").iterdir():
        history = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in history] == [1, 2, 3]


def test_lanes_follow_from_the_study(cohort, monkeypatch):
    data = SliceData(cohort)
    (group,) = study(recipes=("full",), splits=("cv", "holdout"), seeds=(1, 2)).groups()
    assert lanes(group, data, 10) == [[run] for run in group]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    parts = lanes(group, data, 5)
    # Folds with different numbers of steps too, and one limit for all.
    assert [len(part) for part in parts] == [5, 5, 2]
    assert [run for part in parts for run in part] == group
    ptq = [dataclasses.replace(run, method="ptq") for run in group]
    assert lanes(ptq, data, 4) == [[run] for run in ptq]


def test_lanes_are_as_many_as_the_memory_holds(cohort, monkeypatch):
    data = SliceData(cohort)
    (group,) = study(recipes=("baseline",), seeds=tuple(range(8))).groups()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    class Device:
        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    sizes = []
    for limit in (1, 40e6, 1e12):
        monkeypatch.setattr(jax, "local_devices", lambda limit=limit: [Device(limit)])
        sizes.append(max(map(len, lanes(group, data, 10))))
    assert sizes[0] == 1
    assert sizes[2] == 8
    assert 1 <= sizes[1] <= 8


def test_the_table_shows_baselines_that_are_not_compared_nowhere(tmp_path):
    lines: list[str] = []
    one = study(recipes=("full",), methods=("qad",))
    table = Table(one, line=lines.append)
    (run,) = one.runs()
    table.begins([run.teacher()])
    table.epoch("x", {"epoch": 1, "val_dice": 0.5})
    table.ended(run.teacher(), {"test": {"auprc": 0.5}}, tmp_path)
    table.begins([run])
    table.ended(run, None, tmp_path)
    assert lines == ["[1/1, 0 min to go] cnn 500k full qad holdout seed 2026: failed"]


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
