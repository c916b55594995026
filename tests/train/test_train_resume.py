"""A run that is killed, stopped or watched, in one process or several, ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fp4jax.train import (
    BusyError,
    Listener,
    Options,
    RunFolder,
    Saving,
    Terminated,
    group,
    read_trained,
    train,
)
from fp4jax.train.checkpoint import Checkpoints, read_progress
from fp4jax.train.program import program_of
from tests import blobs
from tests.train import outcome

ROOT = Path(__file__).parents[2]
COHORT = blobs.cohort()
CONFIG = blobs.config(epochs=4)
#: of an epoch: nine patients of four slices, eight in a batch
STEPS = 5


class At(Listener):
    """Does something after so many steps."""

    def __init__(self, step: int, act):
        self.left, self.act, self.taken = step, act, 0

    def steps(self, done: int) -> None:
        self.taken += done
        if self.taken == self.left:
            self.act()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    (folder,) = train(CONFIG, COHORT, tmp_path_factory.mktemp("whole"))
    return folder


def test_sigterm_in_an_epoch_loses_no_step(whole, tmp_path):
    seldom = Options(At(STEPS + 2, terminate), saving=Saving(seconds=1e6))
    with pytest.raises(Terminated) as ended:
        train(CONFIG, COHORT, tmp_path, options=seldom)
    assert ended.value.code == 143
    (path,) = tmp_path.iterdir()
    (checkpoint,) = (path / "checkpoints").iterdir()
    (progress,) = read_progress(checkpoint.absolute())["lanes"]
    assert (progress["epoch"], len(progress["rows"]["loss"])) == (1, 2)
    assert str(RunFolder(path).status()) == "epoch 1 of 4, not finished"
    rest = At(0, interrupt)
    (folder,) = train(CONFIG, COHORT, tmp_path, options=Options(rest))
    assert rest.taken == 4 * STEPS - (STEPS + 2)
    outcome.assert_same(folder, whole)
    # A finished run is left alone, and its checkpoints are gone.
    assert sorted(p.name for p in folder.path.iterdir() if p.is_dir()) == ["best"]
    before = outcome.contents(folder)
    train(CONFIG, COHORT, tmp_path)
    assert outcome.contents(folder) == before


def test_interrupted_in_an_epoch_it_goes_on_from_the_last_checkpoint(whole, tmp_path):
    for step in (3, 2 * STEPS + 1, STEPS + 2):
        options = Options(At(step, interrupt), saving=Saving(epochs=1))
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, COHORT, tmp_path, options=options)
    # Three epochs are behind it: it can be used as it is.
    (path,) = tmp_path.iterdir()
    assert read_trained(path).state == "epoch 3 of 4, not finished"
    (folder,) = train(CONFIG, COHORT, tmp_path)
    outcome.assert_same(folder, whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, COHORT, tmp_path, options=Options(At(17, interrupt), saving=Saving(epochs=1)))
    (path,) = tmp_path.iterdir()
    newest = max((path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for file in (newest / "last").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged; the run goes on from the one"):
        (folder,) = train(CONFIG, COHORT, tmp_path)
    outcome.assert_same(folder, whole)


def test_what_a_kill_after_the_summary_left_is_deleted(whole, tmp_path, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(group, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, COHORT, tmp_path)
    (path,) = tmp_path.iterdir()
    assert (path / "checkpoints").exists()
    (folder,) = train(CONFIG, COHORT, tmp_path)
    assert not folder.checkpoints.exists()
    outcome.assert_same(folder, whole)


def start(out: Path, cache: Path, *more: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.blobs", out, cache, *map(str, more)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen) -> tuple[int, str]:
    """(exit code, last line of standard error)"""
    _, err = process.communicate(timeout=280)
    return process.returncode, "".join(err.strip().splitlines()[-1:])


def runs(out: Path) -> list[RunFolder]:
    return [RunFolder(path) for path in sorted(out.glob("cnn*"))]


def epochs(out: Path) -> int:
    return sum(len(folder.history()) for folder in runs(out))


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"ended before it could be met: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


# A process takes seconds to start, and each kill needs another one.
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_that_are_killed_watched_and_terminated(tmp_path):
    cache, one, other = (tmp_path / name for name in ("cache", "one", "other"))
    config = blobs.config()
    program_of(config, 3)
    # One process trains; this one leaves the run alone, or waits for it.
    process = start(one, cache)
    wait_until(lambda: any(folder.status().owner for folder in runs(one)), process)
    with pytest.raises(BusyError, match=f"another process .process {process.pid} on "):
        train(config, COHORT, one)
    (whole,) = train(config, COHORT, one, options=Options(wait=None))
    assert [record["epoch"] for record in whole.history()] == [1, 2, 3, 4, 5, 6]
    assert end(process)[0] == 0

    # Killed once, terminated once.
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = start(other, cache)
        done = epochs(other)
        wait_until(lambda done=done: epochs(other) > done, process)
        process.send_signal(number)
        assert end(process)[0] == code
    (folder,) = runs(other)
    assert folder.status().state == "interrupted"
    assert end(start(other, cache))[0] == 0
    outcome.assert_same(folder, whole)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_kills_at_random_moments_of_a_study_of_six_runs(tmp_path):
    cache, undisturbed, killed = (tmp_path / name for name in ("cache", "whole", "killed"))
    assert end(start(undisturbed, cache, "study"))[0] == 0
    expected = runs(undisturbed / "runs")
    assert len(expected) == 6
    rng = random.Random(2026)
    kills = 0
    while kills < 20:
        process = start(killed, cache, "study")
        # Some moment until its second epoch has ended, or while a run ends or begins.
        until = epochs(killed / "runs") + rng.choice([0, 1, 1, 2])
        wait_until(lambda until=until: epochs(killed / "runs") >= until, process)
        time.sleep(rng.uniform(0, 0.3 if until else 5))
        process.kill()
        assert end(process)[0] == -signal.SIGKILL, f"it ended before kill {kills}"
        kills += 1
    assert end(start(killed, cache, "study"))[0] == 0
    for folder, other in zip(runs(killed / "runs"), expected, strict=True):
        outcome.assert_same(folder, other)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_processes_at_once(tmp_path):
    """Each run is trained by one of them; the others say so."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    ends = [end(process) for process in [start(out, cache, 1, 2) for _ in range(4)]]
    # All may end with 1: each has trained one of the runs and left the other alone.
    assert {code for code, _ in ends} <= {0, 1}, ends
    assert all("another process" in said for code, said in ends if code)
    for folder in runs(out):
        assert [record["epoch"] for record in folder.history()] == [1, 2, 3, 4, 5, 6]
    assert len(runs(out)) == 2
    assert end(start(out, cache, 1, 2))[0] == 0


def test_full_disk_is_one_error_and_nothing_is_lost(tmp_path):
    """Files may not grow beyond 8 KiB: the process meets EFBIG where it writes a checkpoint."""
    code = (
        "import resource, signal, sys, jax; from pathlib import Path; from tests import blobs;"
        "jax.config.update('jax_disable_most_optimizations', True);"
        "from fp4jax.train import train;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, 1 << 13));"
        "\ntry: train(blobs.config(epochs=1, recipe='baseline'), blobs.cohort(), Path(sys.argv[1]))"
        "\nexcept OSError as error: print(error); sys.exit(2)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    # What the library raises; threads of Orbax may write more to standard error at exit.
    assert process.returncode == 2, process.stderr[-3000:]
    (line,) = process.stdout.splitlines()
    assert line.startswith("cannot write a checkpoint in")
    assert "goes on from its last complete checkpoint" in line
    (path,) = (tmp_path / "out").iterdir()
    assert RunFolder(path).summary() is None
    assert json.loads((path / "config.json").read_text())["config"]["arch"] == "cnn"


def test_exhausted_memory_is_reported_as_that(tmp_path, monkeypatch):
    """Where a checkpoint is copied from the device, and in the validation."""
    import jax

    from fp4jax.train import OutOfMemoryError, SliceData

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 12 GiB")

    for where, method in ((Checkpoints, "save"), (SliceData, "validate")):
        with monkeypatch.context() as patch:
            patch.setattr(where, method, exhausted)
            with pytest.raises(OutOfMemoryError, match=r"memory is exhausted: .*12 GiB"):
                train(CONFIG, COHORT, tmp_path)
