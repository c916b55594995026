"""A run that is killed and repeated ends with the bits of one that never stopped."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.folder import RunFolder
from fp4jax.train.program import Program
from tests import blobs

ROOT = Path(__file__).parents[2]


def start(out: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.blobs", out, cache], cwd=ROOT)


def finished(out: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Summary without times, and all arrays of the last checkpoint."""
    (path,) = out.iterdir()
    summary = {k: v for k, v in (RunFolder(path).summary() or {}).items() if "seconds" not in k}
    program = Program(blobs.config(augment=True), channels=3, steps=1)
    state = jax.eval_shape(program.init, jax.ShapeDtypeStruct((), np.uint32))
    checkpoints = Checkpoints(path / "checkpoints")
    last, best, _ = checkpoints.restore(
        checkpoints.epochs()[-1], state, (state.params, state.stats)
    )
    checkpoints.close()
    return summary, dict(enumerate(map(np.asarray, jax.tree.leaves((last, best)))))


# A process takes seconds to start, and each kill needs another one.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_runs_end_bit_equal(times, tmp_path):
    cache, whole, killed = (tmp_path / name for name in ("cache", "whole", "killed"))
    begun = time.monotonic()
    process = start(whole, cache)
    assert process.wait(300) == 0
    took = time.monotonic() - begun
    rng = random.Random(2026)
    kills = 0
    for attempt in range(40):
        process = start(killed, cache)
        if kills == times:
            assert process.wait(300) == 0
            break
        # Somewhere between the first checkpoint and the end, wherever that is by now.
        deadline = time.monotonic() + 120
        epochs = len(history(killed))
        while process.poll() is None and len(history(killed)) == epochs:
            assert time.monotonic() < deadline, "no epoch ended"
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            kills += 1
        else:
            pytest.fail(f"the run ended before it could be killed ({attempt}, {took:.0f} s)")
    expected, found = finished(whole), finished(killed)
    assert found[0] == expected[0]
    assert all(np.array_equal(a, expected[1][i]) for i, a in found[1].items())
    assert [strip(r) for r in history(killed)] == [strip(r) for r in history(whole)]


def history(out: Path) -> list[dict]:
    paths = list(out.iterdir()) if out.exists() else []
    return RunFolder(paths[0]).history() if paths else []


def strip(record: dict) -> dict:
    return {key: value for key, value in record.items() if key != "seconds"}


def test_full_disk_is_one_error_and_nothing_is_lost(tmp_path):
    """Files may not grow beyond 8 KiB: the process meets EFBIG where it writes a checkpoint."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from tests import blobs;"
        "from fp4jax.train import train;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, 1 << 13));"
        "\ntry: train(blobs.config(epochs=1), blobs.cohort(), Path(sys.argv[1]))"
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
    assert json.loads((path / "config.json").read_text())["arch"] == "cnn"
