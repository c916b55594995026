"""What is seen of a study from its folders alone, and the command that shows it."""

import io
import json
import re
import runpy
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.fabricated_training import Times, cohort, task
from fp4jax.study import Study, execute
from fp4jax.study.overview import table
from fp4jax.study.seen import Run, Seen, left
from fp4jax.train import RunFolder
from fp4jax.train.lock import held
from fp4jax.train.status import Status

COMMAND = Path(__file__).parents[2] / "experiments" / "study.py"


def study() -> Study:
    return Study(task(), archs=("cnn",), recipes=("baseline", "full"), seeds=(1, 2, 3), epochs=4)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Six runs, of which two are there no more."""
    folder = tmp_path_factory.mktemp("study")
    outcome = execute(study(), cohort(), folder, name="demo", train=Times(0.0))
    for run in outcome.folders[4:]:
        for path in run.path.glob("*.json*"):
            path.unlink()
    return folder


def shown(seen: Seen) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(seen))
    return console.export_text()


def test_what_runs_where(out):
    seen = Seen(out, "demo")
    running, failed = (out / "runs" / name for name in [r.name for r in seen.look()][4:])
    RunFolder(failed).write_failure(RuntimeError("out of luck"))
    with held(running) as lock:
        lock.report(running, epoch=3, epochs=10, seconds=20.0)
        for epoch in (1, 2, 3):
            RunFolder(running).append({"epoch": epoch, "train_loss": 1 / epoch})
        states = [run.status.state for run in seen.look()]
        assert states == ["finished"] * 4 + ["running", "failed"]
        assert seen.runs[4].status.left == 140
        assert left(seen.runs) == 140
        text = shown(seen)
    assert "5 of 6 runs are over, 2 min to go" in text
    assert re.search(r"^\S+ +epoch 3 +loss 0\.333 █▃▁", text, re.MULTILINE)
    record = json.loads((running / "status.json").read_text())
    (row,) = (line for line in text.splitlines() if record["host"] in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "cnn_500k_full_fabricated",
        "holdout seed 2",
        record["host"],
        str(record["pid"]),
        "3/10",
        "2 min",
    ]
    assert [run.status.state for run in seen.look()][4] == "interrupted"
    assert Seen(out, "absent").look() == []


def test_finished_runs_are_read_once(out, monkeypatch):
    seen = Seen(out, "demo")
    seen.look()
    asked = []
    status = RunFolder.status

    def counted(self):
        asked.append(self.path.name)
        return status(self)

    monkeypatch.setattr(RunFolder, "status", counted)
    scores = [run.score for run in seen.look()]
    assert len(asked) == 2
    assert all(0 < score < 1 for score in scores[:4])


@pytest.mark.parametrize(
    ("running", "finished", "new", "expected"),
    [
        ([], [], 2, None),
        ([100.0], [], 1, None),  # who knows how long the other one takes
        ([100.0, 40.0], [], 0, 100.0),
        ([100.0], [60.0], 2, 220.0),
        ([100.0, 100.0], [60.0], 4, 220.0),
        ([None], [60.0], 1, None),
    ],
)
def test_time_to_go(running, finished, new, expected):
    def named(i):
        return f"cnn_500k_full_x_holdout_s{i}_0123456789"

    runs = [
        *(
            Run(named(i), Status("running", epochs=1, seconds=seconds))
            for i, seconds in enumerate(running)
        ),
        *(Run(named(10 + i), Status("finished"), 0.5, s) for i, s in enumerate(finished)),
        *(Run(named(20 + i), Status("new")) for i in range(new)),
    ]
    assert left(runs) == expected


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["study", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(COMMAND), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return call


def test_the_command_watches_once_without_a_terminal(out, run, tmp_path):
    (*_, failed) = (out / "runs" / run.name for run in Seen(out, "demo").look())
    RunFolder(failed).write_failure(RuntimeError("out of luck"))
    threads = threading.active_count()
    code, text, _ = run("demo", "--watch", "--out", out)
    assert code == 1  # one has failed
    assert "cnn_500k_baseline_fabricated" in text
    assert "3/3" in text
    assert threading.active_count() == threads
    code, _, error = run("demo", "--watch", "--out", tmp_path)
    assert code == 2
    assert error.endswith("yet; start it, or set --out, the folder that it is in.\n")
