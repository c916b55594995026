"""The folder of a run: made as a whole, of one run, readable in any state, finished for ever."""

import json
import os
import platform
import subprocess
import sys

import pytest

from fp4jax.files import write_json
from fp4jax.train.environment import environment, source
from fp4jax.train.folder import FinishedError, RunFolder
from fp4jax.train.lock import held
from fp4jax.train.signals import Terminated, Termination

CONFIG = {"arch": "cnn", "epochs": 20, "rate": 0.1, "options": {"stages": 2}}
SPLIT = {"train": ["a", "b"], "val": ["c"], "test": ["d"], "name": "holdout"}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "cnn")
    folder.create(CONFIG, SPLIT, {"fp4jax": "0.1.0"})
    return folder


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}


def test_is_made_as_a_whole(run):
    assert sorted(contents(run)) == ["config.json", "environment.json", "split.json"]
    assert (run.config(), run.split()) == (CONFIG, SPLIT)
    assert run.environment() == {"fp4jax": "0.1.0"}
    assert [path.name for path in run.path.parent.iterdir()] == ["cnn"]
    # What cannot be written leaves nothing behind.
    other = RunFolder(run.path.parent / "other")
    with pytest.raises(TypeError):
        other.create({"arch": object()}, SPLIT, {})
    assert [path.name for path in run.path.parent.iterdir()] == ["cnn"]


def test_the_same_run_again_changes_nothing(run):
    before = contents(run)
    run.create({**CONFIG, "options": {"stages": 2}}, SPLIT, {"fp4jax": "0.2.0"})
    assert contents(run) == before


@pytest.mark.parametrize(
    ("config", "split", "differing"),
    [
        ({**CONFIG, "arch": "swin"}, SPLIT, "arch"),
        ({**CONFIG, "rate": float("nan"), "more": 1}, SPLIT, "more, rate"),
        (CONFIG, {**SPLIT, "train": ["a", "d"]}, "split"),
    ],
)
def test_another_run_is_refused(run, config, split, differing):
    with pytest.raises(ValueError, match=rf"another run \(differing: {differing}\); choose"):
        run.create(config, split, {})


def test_a_folder_without_a_run_becomes_one(tmp_path):
    run = RunFolder(tmp_path / "cnn")
    run.write_failure(ValueError("no data"))
    run.create(CONFIG, SPLIT, {})
    assert run.config() == CONFIG
    assert run.failure()["error"] == "ValueError: no data"


def test_history_goes_on_where_it_was(run):
    for epoch in (1, 2, 3):
        run.append({"epoch": epoch, "loss": float("nan")})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert [record["epoch"] for record in run.history()] == [1, 2, 3]
    run.start_history(2)
    run.append({"epoch": 3, "loss": 1.0})
    assert run.history()[-2:] == [{"epoch": 2, "loss": None}, {"epoch": 3, "loss": 1.0}]


def test_failures(run):
    try:
        raise KeyError("patients")
    except KeyError as error:
        run.write_failure(error)
    assert run.failure()["error"] == "KeyError: 'patients'"
    assert "raise KeyError" in run.failure()["traceback"]
    assert (run.status().state, str(run.status())) == ("failed", "epoch 0 of 20, failed")
    run.clear_failure()
    run.clear_failure()
    assert run.failure() is None


def test_a_finished_run_is_never_touched(run):
    run.append({"epoch": 1})
    run.write_failure(ValueError("once"))
    run.write_summary({"epochs_run": 1})
    assert run.failure() is None
    before = contents(run)
    for write in (
        lambda: run.write_summary({}),
        lambda: run.append({"epoch": 2}),
        lambda: run.start_history(0),
        lambda: run.write_failure(ValueError("late")),
    ):
        with pytest.raises(FinishedError, match="never changed"):
            write()
    run.create(CONFIG, SPLIT, {})
    run.start_history(1)
    assert contents(run) == before


def test_status(run, tmp_path):
    assert (RunFolder(tmp_path / "absent").status().state, str(run.status())) == (
        "new",
        "not begun",
    )
    run.append({"epoch": 1})
    assert str(run.status()) == "epoch 1 of 20, not finished"
    group = run.path.parent / ".groups" / "ab12"
    with held(run.path) as lock:
        lock.report(run.path, epoch=7, epochs=20, group=group, lane=3)
        status = run.status()
        assert (status.state, status.epoch, status.epochs) == ("running", 7, 20)
        assert (status.owner.host, status.owner.pid) == (platform.node(), os.getpid())
        assert (status.group, status.lane) == (group, 3)
        assert str(status).startswith("epoch 7 of 20, running as process")
    assert str(run.status()) == "epoch 7 of 20, not finished"
    assert run.status().owner is None
    run.write_summary({})
    assert str(run.status()) == "epoch 7 of 20, finished"


def test_folders_of_earlier_versions_are_read_and_not_changed(tmp_path):
    old = RunFolder(tmp_path)
    write_json(tmp_path / "config.json", CONFIG)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 5}) + "\n")
    before = contents(old)
    assert (old.split(), old.environment(), str(old.status())) == (
        None,
        None,
        "epoch 5 of 20, not finished",
    )
    write_json(tmp_path / "summary.json", {"epochs_run": 5})
    assert str(old.status()) == "epoch 5 of 20, finished"
    old.create(CONFIG, SPLIT, {})
    assert contents(old) == before | {"summary.json": (tmp_path / "summary.json").read_bytes()}


def test_environment(tmp_path):
    found = json.loads(json.dumps(environment()))
    assert found["numerics"] >= 1
    assert found["packages"]["jax"].count(".") >= 2
    assert found["device"]["count"] == 8
    assert found["command"] == sys.argv
    assert found["processor"]
    assert found["date"].endswith("+00:00")
    # A folder without git, and a checkout with and without changes.
    assert source(tmp_path) is None
    (tmp_path / "a").write_text("1")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "a"], [*author, "commit", "-q", "-m", "a"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    clean = source(tmp_path)
    (tmp_path / "a").write_text("2")
    assert (len(clean["revision"]), clean["dirty"]) == (40, False)
    assert source(tmp_path) == {**clean, "dirty": True}


def test_sigterm_is_noted_and_ends_with_its_exit_code():
    code = (
        "import os, signal; from fp4jax.train.signals import Terminated, Termination\n"
        "with Termination() as outer, Termination() as inner:\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    try:\n"
        "        if inner.asked and outer.asked: raise Terminated\n"
        "    except Exception: print('swallowed')\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (143, "", "")
    with Termination() as termination:
        pass
    assert not termination.asked
    assert not issubclass(Terminated, Exception)
