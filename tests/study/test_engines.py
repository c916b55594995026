"""Engines: by name, users' own, workers that share and leave, and what dies."""

import json
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.fabricated_training import Times, cohort, read_journal, task
from fp4jax.study import Study, engine, execute, register_engine
from fp4jax.study.engines import Local, RayEngine, local
from fp4jax.study.worker import Worker
from fp4jax.train import DivergedError, Listener, RunFolder, SliceData
from fp4jax.train.lock import held
from tests.registered import registries as registries


def study(**changes) -> Study:
    values = {"archs": ("cnn",), "recipes": ("baseline", "full"), "seeds": (1, 2), "epochs": 2}
    return Study(task(), **{**values, **changes})


@pytest.fixture(scope="module")
def data():
    return SliceData(cohort())


def test_engines_by_name():
    assert engine("local") == Local()
    assert engine("ray", gpus_per_run=2).gpus_per_run == 2
    with pytest.raises(ValueError, match="known names: local, ray"):
        engine("absent")
    with pytest.raises(ValueError, match=r"engine 'local'.*address"):
        engine("local", address="auto")
    with pytest.raises(ValueError, match="more than 60 seconds"):
        Local(wait=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus_per_run": 1.5}, "such as 0.5, or 1"),
        ({"cpus_per_run": -1}, "number of cores"),
        ({"retries": -1}, "may be repeated"),
    ],
)
def test_wrong_options_of_ray(options, message):
    with pytest.raises(ValueError, match=message):
        RayEngine(**options)


def test_ray_that_is_not_installed(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"^ray is not installed: pip install 'fp4jax\[ray\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        execute(study(), data, tmp_path, engine=engine("ray"), train=failing)


def test_an_engine_of_ones_own(data, tmp_path, registries):
    order = []

    def backwards(share):
        def run(work):
            for part in reversed(list(work.parts())):
                order.extend(run.recipe_name for run in part)
                assert work.train(part) == "done"

        assert share == 3
        return run

    register_engine("backwards", backwards)
    own = engine("backwards", share=3)
    outcome = execute(study(), data, tmp_path, engine=own, train=Times(0.0))
    assert order == ["full", "full", "baseline", "baseline"]
    assert (outcome.trained, outcome.open, outcome.failures) == (4, (), ())
    # What is finished costs an engine nothing.
    assert execute(study(), data, tmp_path, engine=None, train=failing).trained == 0


def failing(*args, **kwargs):
    raise AssertionError("nothing is to be trained")


class Told(Listener):
    def __init__(self):
        self.ends = []

    def ended(self, run, summary, folder):
        self.ends.append(folder.name)


def test_a_worker_leaves_what_another_one_trains(data, tmp_path, monkeypatch):
    """It waits for students of a baseline that another one trains, but not for the baseline."""
    monkeypatch.setattr(local, "_POLL", 0.01)
    one = study(methods=("qat", "qad"), seeds=(1,))
    worker = Worker(data, tmp_path / "runs")
    baseline, trained, student = one.runs()
    folder = worker.folder(baseline)
    folder.path.mkdir(parents=True)
    leaving = Local(wait=61.0)
    states = []
    with held(folder.path):
        now = [0.0]

        class Clock:
            monotonic = staticmethod(lambda: now[0])

            @staticmethod
            def sleep(seconds):
                states.append([worker(part) for part in ([baseline], [student])])
                now[0] += 30.0
                if len(states) == 5:
                    # Somebody else has trained the baseline; from now on it is only held.
                    folder.write_failure(DivergedError("loss is nan"))

        monkeypatch.setattr(local, "time", Clock)
        outcome = execute(one, data, tmp_path, engine=leaving, train=Times(0.0))
    assert states[:5] == [["busy", "waiting"]] * 5
    assert len(states) == 5
    assert [run.path.name for run in outcome.folders] == [worker.name(trained)]
    assert [name for name, _ in outcome.failures] == [worker.name(baseline), worker.name(student)]


def test_a_worker_leaves_after_a_while(data, tmp_path, monkeypatch):
    worker = Worker(data, tmp_path / "runs")
    (run,) = study(recipes=("full",), seeds=(1,)).runs()
    folder = worker.folder(run)
    folder.path.mkdir(parents=True)
    now = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])

        @staticmethod
        def sleep(seconds):
            now[0] += seconds

    monkeypatch.setattr(local, "time", Clock)
    with held(folder.path):
        one = study(recipes=("full",), seeds=(1,))
        outcome = execute(one, data, tmp_path, engine=Local(wait=61.0), train=Times(0.0))
    assert 61 < now[0] < 70
    assert outcome.open == (worker.name(run),)
    assert not outcome.failures
    assert not outcome.changed


def test_the_end_of_a_run_that_another_process_trained_is_told(data, tmp_path, monkeypatch):
    one, told = study(recipes=("full",)), Told()
    first, second = one.runs()

    def train(part, data, root, **options):
        # Before this one, another process does both.
        Times(0.0)([first, second], data, root)
        Times(0.0)(part, data, root, **options)

    outcome = execute(one, data, tmp_path, train=train, listener=told)
    assert sorted(told.ends) == sorted(folder.path.name for folder in outcome.folders)


CODE = """
import sys
from pathlib import Path
from benchmarks.fabricated_training import Times, cohort
from fp4jax.study import engine, execute
from tests.study.test_engines import study
own = engine("local", wait=61.0)
execute(study(epochs=int(sys.argv[2])), cohort(), Path(sys.argv[1]), engine=own, train=Times(0.1))
"""


def start(out, epochs):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CODE, str(out), str(epochs)]
    return subprocess.Popen(command, stderr=pipe, stdout=pipe, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["this host", "another host"])
def test_a_worker_that_is_killed(elsewhere, tmp_path):
    """Another one takes over: at once on one host, else when the lock's heartbeat is old."""
    epochs, runs = 200, tmp_path / "runs"
    killed, other = (start(tmp_path, epochs) for _ in range(2))

    def trained_by(process) -> list:
        folders = [RunFolder(path) for path in runs.glob("[!.]*")]
        found = {folder.path: folder.status() for folder in folders}
        begun = {path: status.owner for path, status in found.items() if status.epoch}
        return [path for path, owner in begun.items() if owner and owner.pid == process.pid]

    while not (trained_by(killed) and trained_by(other)):
        assert killed.poll() is None, "the other one came too late"
        time.sleep(0.05)
    if elsewhere:
        # As if the first one were on another host: its death shows by its silence alone.
        killed.send_signal(signal.SIGSTOP)
    (begun,) = trained_by(killed)
    if elsewhere:
        path = begun / "status.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "another", "boot": "x"}))
    killed.kill()
    killed.communicate()
    died = time.time()
    _, said = other.communicate(timeout=400)
    assert other.returncode == 0, said
    (took,) = (line for line in read_journal(tmp_path) if line["run"] == begun.name)
    assert took["pid"] == other.pid
    assert took["epochs"] < epochs
    if elsewhere:
        # Not before the heartbeat counts as old.
        assert took["began"] - died > 60 - 5 - 1
    history = (begun / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == list(range(1, epochs + 1))
    assert len(list(runs.glob("*/summary.json"))) == 4


def test_fabricated_summaries_are_those_of_their_configurations(data, tmp_path):
    """Whoever trained them, and whatever was lost on the way."""
    for place in ("a", "b"):
        execute(study(seeds=(1,)), data, tmp_path / place, train=Times(0.0))
    summaries = [
        {p.parent.name: p.read_text() for p in (tmp_path / place).glob("runs/*/summary.json")}
        for place in ("a", "b")
    ]
    assert summaries[0] == summaries[1]
    assert len(set(summaries[0].values())) == 2
