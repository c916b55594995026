"""One training on a Ray cluster: the bits of two processes that found each other otherwise."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from fp4jax.train import LostProcessError, RayHosts, RunFolder, Terminated, task
from fp4jax.train.ray_hosts import _awaited
from fp4jax.train.ray_process import Outcome
from fp4jax.train.signals import Termination
from tests.train import outcome, several, test_hosts

ROOT = Path(__file__).parents[2]
with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra ray"
)


@pytest.fixture
def registered(tmp_path):
    """The task of the kind ``dots``, in this process too."""
    several.dots(tmp_path)
    yield
    del task._TASKS["dots"]


def start(out: Path, kind: str, what: str) -> tuple[RunFolder, dict]:
    """The run of tests.train.ray_training, and what that prints."""
    words = [sys.executable, "-m", "tests.train.ray_training", str(out), kind, what]
    few = str(jax.config.read("jax_disable_most_optimizations"))
    variables = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": few, "XLA_FLAGS": ""}
    variables = {**os.environ, **variables}
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert run.returncode == 0, run.stderr[-4000:]
    (path,) = (path for path in out.iterdir() if path.is_dir())
    return RunFolder(path), json.loads(run.stdout.splitlines()[-1])


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kind", "what"),
    [("slices", "killed"), ("dots", "node"), ("dots", "terminated")],
)
def test_what_was_lost_goes_on_to_the_bits_of_two_processes(kind, what, tmp_path, registered):
    folder, told = start(tmp_path / "ray", kind, what)
    assert len(set(told["processes"])) == 2
    if what == "killed":
        assert "the run goes on from its last checkpoint" in told["lost"]
    elif what == "terminated":
        assert "not finished" in told["terminated"]
    ends = test_hosts.both(kind, tmp_path / "given")
    assert [code for code, _ in ends] == [0, 0], ends
    (path,) = (path for path in (tmp_path / "given").iterdir() if path.is_dir())
    outcome.assert_same(folder, RunFolder(path))
    assert [record["epoch"] for record in folder.history()] == [1, 2, 3]


class Ended:
    """A Ray whose tasks have all ended: their outcomes by place."""

    def __init__(self, *outcomes: Outcome):
        self.outcomes = outcomes

    def wait(self, tasks, num_returns, timeout):
        return tasks[:1], tasks[1:]

    def get(self, task):
        return self.outcomes[task]


def ended(*outcomes: Outcome, asked: bool = False):
    """How a training ends whose first process has the second outcome; and how often it is told."""
    termination, told = Termination(), []
    termination.asked = asked
    result = _awaited(Ended(*outcomes), {0: False, 1: True}, lambda: told.append(1), termination)
    return result, len(told)


def test_how_a_training_ends():
    fine, mine = Outcome("returned"), Outcome("returned", [1, 2])
    assert ended(fine, mine) == ([1, 2], 0)
    # It was about to end when it was asked to.
    assert ended(fine, mine, asked=True) == ([1, 2], 1)
    asked = Outcome("terminated")
    with pytest.raises(Terminated):
        ended(fine, asked, asked=True)
    # A node that is asked to go is lost like any other.
    for lost in (Outcome("lost"), asked):
        with pytest.raises(LostProcessError):
            ended(lost, mine)
    with pytest.raises(ZeroDivisionError):
        ended(fine, Outcome("raised", ZeroDivisionError()))


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"^ray is not installed: pip install 'fp4jax\[ray\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        RayHosts()(lambda devices: None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"processes": 0}, "processes is 0; give at least 1"),
        ({"heartbeat": 0}, "heartbeat is 0"),
        ({"gpus_per_process": 0.5}, "gpus_per_process is 0.5; give whole GPUs"),
        ({"cpus_per_process": 0}, "cpus_per_process is 0; give a number above 0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_what_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RayHosts(**wrong)
