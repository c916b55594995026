"""One process has a run; a dead one's is taken over, a live one's never."""

import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fp4jax.files import read_json, write_json
from fp4jax.train import lock as module, status
from fp4jax.train.folder import RunFolder
from fp4jax.train.lock import BusyError, LostError, held

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def other(run):
    """Another process that holds the run."""
    code = (
        "import sys, time; from pathlib import Path; from fp4jax.train.lock import held\n"
        "with held(Path(sys.argv[1])) as lock:\n"
        "    lock.report(Path(sys.argv[1]), epoch=3, epochs=9); print('held', flush=True)\n"
        "    sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, run],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()


def elsewhere(run: Path, seconds: float) -> None:
    """As another host left the folder, whose locks do not reach here."""
    record = {"host": "node17", "boot": "b", "pid": 1, "token": "t", "started": "2026-11-01"}
    write_json(run / "status.json", record | {"heartbeat": "2026-11-01", "epoch": 4, "epochs": 9})
    then = time.time() - seconds
    os.utime(run / "status.json", (then, then))


@pytest.mark.parametrize("wrong", [-1000.0, 1000.0])
def test_a_host_whose_clock_is_wrong(run, wrong, monkeypatch):
    """Who lives is told by the times of files, whichever clock stamps them."""
    states, clock = [], time.time
    for seconds in (5, 100):
        elsewhere(run, seconds)
        monkeypatch.setattr(time, "time", lambda: clock() + wrong)
        states.append(RunFolder(run).status().state)
        assert RunFolder(run).running == (seconds == 5)
        monkeypatch.undo()
    assert states == ["running", "interrupted"]


def test_who_may_not_write_sees_by_his_own_clock(run, monkeypatch):
    def refuse(folder):
        raise PermissionError

    monkeypatch.setattr(status, "filesystem_now", refuse)
    monkeypatch.setattr(status, "_LOOKS", {})
    elsewhere(run, 5)
    assert RunFolder(run).running


def keep_checking(lock, deadline: float) -> None:
    while time.monotonic() < deadline:
        lock.check()


def test_a_second_process_is_refused_and_a_killed_one_is_replaced_at_once(run, other):
    with pytest.raises(BusyError, match="another process") as caught, held(run):
        pass
    assert caught.value.owner.pid == other.pid
    assert caught.value.epoch == 3
    assert f"process {other.pid} on {platform.node()} since 20" in str(caught.value)
    assert RunFolder(run).status().state == "running"
    # A suspended process is not dead.
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(BusyError), held(run, stale=0.0):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert RunFolder(run).status().state == "interrupted"
    began = time.monotonic()
    with held(run):
        assert time.monotonic() - began < 1
        status = RunFolder(run).status()
        assert (status.owner.pid, status.epoch) == (os.getpid(), 3)


def test_waiting(run, other):
    began = time.monotonic()
    with pytest.raises(BusyError), held(run, wait=0.5):
        pass
    assert 0.5 <= time.monotonic() - began < 5
    threading.Timer(0.3, other.stdin.close).start()
    with held(run, wait=None):
        assert other.wait(10) == 0


def test_two_calls_in_one_process(run):
    with held(run), pytest.raises(BusyError, match=f"process {os.getpid()} on"), held(run):
        pass
    with held(run):
        pass


def test_all_folders_or_none(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    for folder in (a, b, c):
        folder.mkdir()
    with held(b):
        with pytest.raises(BusyError, match="/b"), held(c, a, b):
            pass
        with held(a), held(c):
            pass
    with held(c, a, b) as lock:
        lock.report(c, epoch=1, epochs=2)
        assert {read_json(f / "status.json")["token"] for f in (a, b, c)} == {
            read_json(a / "status.json")["token"]
        }


def test_the_heartbeat_of_another_host(run):
    elsewhere(run, 30)
    assert str(RunFolder(run).status()).startswith("epoch 4 of 9, running as process 1 on node17")
    with (
        pytest.raises(BusyError, match=r"process 1 on node17 since 2026-11-01; epoch 4"),
        held(run),
    ):
        pass


def test_a_stopped_heartbeat_is_a_dead_process(run, monkeypatch):
    monkeypatch.setattr(module, "_SETTLE", 0.01)
    elsewhere(run, 61)
    assert str(RunFolder(run).status()) == "epoch 4 of 9, not finished"
    with held(run):
        assert RunFolder(run).status().owner.pid == os.getpid()
    assert RunFolder(run).status().epoch == 4


def test_of_two_that_take_over_at_once_one_goes(run, monkeypatch):
    elsewhere(run, 61)
    monkeypatch.setattr(module.time, "sleep", lambda _: elsewhere(run, 0))
    with pytest.raises(BusyError, match="node17"), held(run):
        pass
    assert read_json(run / "status.json")["host"] == "node17"


def test_the_heartbeat_is_renewed_and_a_lost_run_is_left_alone(run):
    with held(run, beat=0.02) as lock:
        first = (run / "status.json").stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while (run / "status.json").stat().st_mtime_ns == first:
            assert time.monotonic() < deadline
        lock.check()
        elsewhere(run, 0)
        with pytest.raises(LostError, match="taken over"):
            keep_checking(lock, deadline)
        with pytest.raises(LostError):
            lock.report(run, epoch=8, epochs=9)
    assert read_json(run / "status.json")["host"] == "node17"
    assert read_json(run / "status.json")["epoch"] == 4


def test_without_flock_the_heartbeat_decides(run, other, monkeypatch):
    def acquire(*args, **kwargs):
        raise OSError(errno.ENOSYS, "flock")

    monkeypatch.setattr(module.filelock.FileLock, "acquire", acquire)
    monkeypatch.setattr(module, "_SETTLE", 0.01)
    with pytest.raises(BusyError, match=f"process {other.pid}"), held(run):
        pass
    other.kill()
    other.wait()
    with held(run), pytest.raises(BusyError), held(run):
        pass


def test_absent_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it first"), held(tmp_path / "absent"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_no_run(run, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "full")

    with held(run, beat=0.01) as lock:
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_json", full)
            time.sleep(0.1)
        lock.report(run, epoch=1, epochs=2)
    assert RunFolder(run).status().epoch == 1
