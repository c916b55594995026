"""One training by several processes: they find each other, agree, and end together."""

import signal
import socket
from pathlib import Path

import jax
import pytest

from fp4jax.data import phantom
from fp4jax.train import Devices, Hosts, RunFolder, joined, task
from fp4jax.train.hosts import LOST
from tests.train import outcome, several


@pytest.fixture
def dots():
    yield
    del task._TASKS["dots"]


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def end(processes) -> list[tuple[int, str]]:
    """(exit code, standard error) of each."""
    try:
        ends = [process.communicate(timeout=1500)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, text) for p, text in zip(processes, ends, strict=True)]


def both(kind: str, out: Path, *die: int) -> list[tuple[int, str]]:
    """Two processes, of which the second is killed at a step if one is given."""
    at = port()
    return end([several.start(kind, out, rank, at, *(die if rank else ())) for rank in (0, 1)])


def killed(kind: str, out: Path, step: int) -> RunFolder:
    """What two processes leave behind, of which the second one was killed."""
    (survivor, said), (victim, _) = both(kind, out, step)
    assert (survivor, victim) == (LOST, -signal.SIGKILL), said
    assert "another process of this training has ended" in said.splitlines()[-1]
    (path,) = (path for path in out.iterdir() if path.is_dir())
    return RunFolder(path)


def test_two_processes_are_one_with_two_devices_and_one_of_them_is_killed(tmp_path, dots):
    """What both began ends in one process, as if that had begun it."""
    devices = Devices.of(jax.devices()[:2])
    left = killed("dots", tmp_path / "two", 6)
    assert str(left.status()) == "epoch 1 of 3, not finished"
    folder = several.alone("dots", tmp_path / "two", devices)
    outcome.assert_same(folder, several.alone("dots", tmp_path / "one", devices))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["slices", "volumes"])
def test_killed_and_resumed_slices_and_volumes(kind, tmp_path):
    phantom.write_nifti(tmp_path / "nifti", patients=6, slices=20, image_size=32)
    left = killed(kind, tmp_path / "two", 6)
    resumed = both(kind, tmp_path / "two")
    assert [code for code, _ in resumed] == [0, 0], resumed
    # In a process with two devices: with the eight of this one XLA:CPU has more threads, among
    # which large products are divided in another way.
    assert end([several.start(kind, tmp_path / "one", 0, 0)])[0][0] == 0
    (path,) = (path for path in (tmp_path / "one").iterdir() if path.is_dir())
    folder = RunFolder(path)
    outcome.assert_same(left, folder)
    # Nothing is missing, and nothing was written by more than one.
    files = [{p.relative_to(f.path) for p in f.path.rglob("*.*")} for f in (left, folder)]
    assert files[0] == files[1]
    # One device alone takes its sums in another order.
    alone = several.alone(kind, tmp_path / "alone")
    assert alone.path.name == folder.path.name
    first, other = (f.history()[0]["train_loss"] for f in (alone, folder))
    assert first == pytest.approx(other, rel=1e-3)
    assert alone.split() == folder.split()


def test_where_a_process_stands():
    given = Hosts("a:1", process_id=1, processes=2)
    assert given.found({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == given
    by_environment = {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_PROCESS_ID": "1",
        "JAX_NUM_PROCESSES": "2",
    }
    assert Hosts().found(by_environment) == given
    # mpirun says where a process stands, and another one who listens.
    mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert Hosts("a:1").found(mpi) == given
    # Left to jax.distributed, which finds the first process too.
    assert Hosts().found(mpi) == Hosts()
    with pytest.raises(ValueError, match="belong together; give process_id and processes too"):
        Hosts("a:1").found({})


def test_a_port_that_is_taken():
    """As by another training, or by another process of the same number."""
    with socket.create_server(("", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(
                ValueError, match=r"cannot listen on port \d+ of this host \(Address already"
            ),
            joined(Hosts(at, process_id=0, processes=2)),
        ):
            pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heartbeat": 0}, "heartbeat is 0; give at least 1 second"),
        ({"processes": 0}, "processes is 0; give at least 1"),
        ({"process_id": 2, "processes": 2}, r"process_id is 2; give a number from 0 .. 1, because"),
        ({"coordinator": "node1"}, "coordinator is 'node1'; give HOST:PORT of the first process"),
    ],
)
def test_what_hosts_refuse(wrong, message):
    with pytest.raises(ValueError, match=message):
        Hosts(**wrong)
