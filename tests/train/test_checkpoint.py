"""Checkpoints: complete or absent, copied before the step goes on, damaged ones passed over."""

import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.train import arrays, checkpoint
from fp4jax.train.arrays import OutOfMemoryError, memory_errors, read_arrays
from fp4jax.train.best import finish, read_best, write_best
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.folder import RunFolder
from fp4jax.train.lock import held

ROOT = Path(__file__).parents[2]


def tree(value: float, size: int = 64):
    """A state whose numbers say which it is."""
    value = float(value)
    return {
        "params": {
            "kernel": jnp.full((size, size), value),
            "bias": jnp.full(3, value, jnp.bfloat16),
        },
        "stats": {"mean": jnp.full(3, value)},
        "step": jnp.asarray(int(value), jnp.int32),
    }


def best(value: float):
    return tree(value)["params"], tree(value)["stats"]


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "run" / "checkpoints")
    yield made
    made.close()


def save(checkpoints: Checkpoints, *numbers: int) -> None:
    for n in numbers:
        checkpoints.save(n, tree(n), best(n + 0.5), {"epoch": n})


def newest(checkpoints: Checkpoints, last, of_best):
    """(number, last, best, progress) of the newest one that can be read."""
    checkpoints.wait()

    def read(path: Path):
        found = read_arrays(path / "last", last), read_arrays(path / "best", of_best)
        return int(path.name), *found, checkpoint.read_progress(path)

    return checkpoint.newest(checkpoints.folder, read)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)


def damage(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_newest_comes_back(tmp_path, asynchronous):
    checkpoints = Checkpoints(tmp_path / "new" / "checkpoints", asynchronous=asynchronous)
    assert newest(checkpoints, tree(0), best(0)) is None
    save(checkpoints, 1, 2, 5)
    number, last, found, progress = newest(checkpoints, tree(0), best(0))
    assert (number, progress) == (5, {"epoch": 5})
    assert_same(last, tree(5))
    assert_same(found, best(5.5))
    assert checkpoints.numbers() == [2, 5]
    save(checkpoints, 5)
    with pytest.raises(ValueError, match="3 cannot follow 5"):
        save(checkpoints, 3)
    checkpoints.close()


def test_buffers_may_be_donated_at_once(checkpoints):
    step = jax.jit(lambda t: jax.tree.map(lambda a: a * 0 - 1, t), donate_argnums=0)
    for n in range(1, 9):
        state = tree(n, 512)
        checkpoints.save(n, state, best(n), {})
        step(state)
        number, last, _, _ = newest(checkpoints, tree(0, 512), best(0))
        assert number == n
        assert_same(last, tree(n, 512))
    # So may the bookkeeping change.
    progress = {"rows": {}}
    checkpoints.save(9, tree(9), best(9), progress)
    progress["rows"]["loss"] = [0.5]
    assert newest(checkpoints, tree(0), best(0))[3] == {"rows": {}}
    # No views of buffers, as NumPy makes them of arrays on the CPU.
    host = np.zeros(3)
    found = arrays.flatten({"device": jnp.zeros(3), "host": host})
    host += 1
    assert not found["host"].any()
    assert found["device"].flags.owndata


@pytest.mark.parametrize("part", ["last", "best", "progress"])
def test_a_damaged_newest_one_is_passed_over(checkpoints, part):
    save(checkpoints, 1, 2)
    checkpoints.wait()
    damage(checkpoints.folder / "2" / part)
    with pytest.warns(UserWarning, match=r"checkpoints/2 is damaged.* the one before it, 1\."):
        number, last, _, _ = newest(checkpoints, tree(0), best(0))
    assert number == 1
    assert_same(last, tree(1))
    # The run goes on with the next number.
    save(checkpoints, 3)
    assert newest(checkpoints, tree(0), best(0))[0] == 3


def test_all_damaged(checkpoints):
    save(checkpoints, 1, 2)
    checkpoints.wait()
    damage(checkpoints.folder)
    with pytest.raises(
        OSError, match=r"all checkpoints in .* are damaged \(2, 1\): cannot read"
    ) as e:
        newest(checkpoints, tree(0), best(0))
    assert "delete that folder and repeat the command" in str(e.value)
    assert checkpoints.numbers() == [1, 2]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (tree(0, 65), r"params/kernel is float32\[64, 64\], expected float32\[65, 65\]"),
        ({"params": tree(0)["params"]}, r"stats/mean is too much; step is too much"),
        (tree(0) | {"scale": jnp.zeros(())}, "scale is not there"),
    ],
)
def test_arrays_of_another_model(checkpoints, last, message):
    save(checkpoints, 1, 2)
    with pytest.raises(ValueError, match=message):
        newest(checkpoints, last, best(0))
    assert checkpoints.numbers() == [1, 2]


def test_errors_say_what_they_are(checkpoints, monkeypatch):
    exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    for error in (exhausted, MemoryError()):
        with (
            pytest.raises(OutOfMemoryError, match=r"memory is exhausted.*smaller batch"),
            memory_errors(),
        ):
            raise error

    class Leaf:
        """Of a step that failed on the device, as is found out when its result is read."""

        def __init__(self, error):
            self.error, self.shape, self.dtype = error, (), np.dtype(np.float32)

        def __array__(self, *args, **kwargs):
            raise self.error

    with pytest.raises(OutOfMemoryError):
        checkpoints.save(1, Leaf(exhausted), {}, {})
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        checkpoints.save(1, Leaf(jax.errors.JaxRuntimeError("INTERNAL: ptxas")), {}, {})
    with pytest.raises(jax.errors.JaxRuntimeError), arrays.storage_errors(Path("x"), "write"):
        raise jax.errors.JaxRuntimeError("INTERNAL: ptxas")
    save(checkpoints, 1)
    assert checkpoints.numbers() == [1]


def test_a_failed_write_in_the_background_is_found(tmp_path):
    """Files may not grow beyond 8 KiB after the first checkpoint."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.train.test_checkpoint import Checkpoints, save\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "checkpoints = Checkpoints(Path(sys.argv[1])); save(checkpoints, 1); checkpoints.wait()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 8, 1 << 8))\n"
        "for call in (lambda: save(checkpoints, 2, 3), checkpoints.close):\n"
        "    try: call()\n"
        "    except OSError as error: print(error)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "c"], cwd=ROOT, capture_output=True, text=True
    )
    first, *_ = process.stdout.splitlines() or [process.stderr]
    assert first.startswith(f"cannot write a checkpoint in {tmp_path / 'c'}: ")
    assert first.endswith("the run goes on from its last complete checkpoint.")
    checkpoints = Checkpoints(tmp_path / "c")
    assert newest(checkpoints, tree(0), best(0))[0] == 1
    checkpoints.close()


def test_killed_while_it_writes(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.train.test_checkpoint import Checkpoints, save, tree, best\n"
        "checkpoints = Checkpoints(Path(sys.argv[1])); save(checkpoints, 1); checkpoints.wait()\n"
        "checkpoints.save(2, tree(2, 2048), best(2), {})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, tmp_path / "c"], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert "1" in names
    assert "2" not in names, "killed too late to show anything"
    assert_same(read_best(tmp_path, best(0), checkpoints=tmp_path / "c"), best(1.5))
    checkpoints = Checkpoints(tmp_path / "c")
    assert newest(checkpoints, tree(0), best(0))[0] == 1
    save(checkpoints, 2)
    checkpoints.close()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"1", "2"}


def test_the_best_stays(checkpoints):
    folder = checkpoints.folder.parent
    with pytest.raises(ValueError, match="neither best/ nor a checkpoint"):
        read_best(folder, best(0))
    # While it trains, and in folders of earlier versions, the newest checkpoint has it.
    save(checkpoints, 1, 2)
    checkpoints.wait()
    assert_same(read_best(folder, best(0)), best(2.5))
    damage(checkpoints.folder / "2" / "best")
    assert_same(read_best(folder, best(0)), best(1.5))
    params, stats = best(7)
    for value in (best(6), {"params": params, "stats": stats}):
        write_best(folder, value)
    assert_same(read_best(folder, best(0)), best(7))
    named = {"params": best(0)[0], "stats": best(0)[1]}
    assert_same(read_best(folder, named), {"params": params, "stats": stats})
    with pytest.raises(ValueError, match=r"no summary\.json"):
        finish(folder)
    assert checkpoints.folder.exists()
    checkpoints.close()
    RunFolder(folder).write_summary({})
    finish(folder)
    finish(folder)
    assert {path.name for path in folder.iterdir()} == {"best", "summary.json"}
    assert_same(read_best(folder, best(0)), best(7))
    with pytest.raises(ValueError, match="of another model"):
        read_best(folder, {"params": best(0)[0], "stats": {}})
    damage(folder / "best")
    with pytest.raises(OSError, match="cannot read a checkpoint"):
        read_best(folder, best(0))


def test_the_best_of_a_lane(tmp_path):
    group, run = tmp_path / ".groups" / "ab", tmp_path / "run"
    run.mkdir()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), best(3), best(4))
    checkpoints = Checkpoints(group / "checkpoints")
    checkpoints.save(1, tree(1), stacked, {})
    checkpoints.close()
    with held(run) as lock:
        lock.report(run, epoch=1, epochs=2, group=group, lane=1)
    assert_same(read_best(run, best(0)), best(4))
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    assert_same(read_best(moved / "run", best(0)), best(4))
    found = read_best(moved / "run", best(0), checkpoints=moved / ".groups/ab/checkpoints", lane=0)
    assert_same(found, best(3))
    with pytest.raises(ValueError, match="for each lane"):
        read_best(moved / "run", (best(0)[0], {"mean": jnp.zeros(4)}))
