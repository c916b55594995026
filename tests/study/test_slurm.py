"""The example array job, under stand-ins for sbatch, srun and scontrol (tests/study/slurm)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "fp4jax" / "cli" / "slurm" / "study.sbatch"
# Saves when it is asked to end, once; then has nothing to do.
WORKER = """#!/bin/bash
echo "$@" >>"$SLURM_STAND_IN/calls"
[[ -e "$SLURM_STAND_IN/saved" ]] && exit 0
trap 'sleep 0.3; touch "$SLURM_STAND_IN/saved"; exit 143' TERM
touch "$SLURM_STAND_IN/ready"
while true; do sleep 0.05; done
"""


def sbatch(tmp_path: Path, python: Path | str, *arguments: object) -> subprocess.Popen:
    path = f"{ROOT / 'tests' / 'study' / 'slurm'}:{os.environ['PATH']}"
    variables = {"PATH": path, "PYTHON": str(python), "SLURM_STAND_IN": str(tmp_path)}
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
    command = ["sbatch", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=pipe, stderr=pipe, text=True)


def terminate(tmp_path: Path, task: int) -> None:
    """What SLURM does before a preemption, or shortly before the time is over."""
    os.kill(int((tmp_path / f"shell.{task}").read_text()), signal.SIGTERM)


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_a_worker_that_saved_goes_into_the_queue_again(tmp_path):
    python = tmp_path / "python"
    python.write_text(WORKER)
    python.chmod(0o755)
    job = sbatch(tmp_path, python, "--array=0-0", SCRIPT, "demo", "--epochs", 2)
    wait_for((tmp_path / "ready").exists, job)
    terminate(tmp_path, 0)
    out, _ = job.communicate(timeout=60)
    assert "into the queue again" in out
    # The shell waited until all was saved, and the second time there was nothing to do.
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "code.0").read_text() == "0\n"
    call = "-m fp4jax study demo --epochs 2 --worker\n"
    assert (tmp_path / "calls").read_text() == call * 2


def test_other_ends_of_a_worker_are_passed_on(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\nexit 2\n")
    python.chmod(0o755)
    job = sbatch(tmp_path, python, "--array=0-1", SCRIPT, "nonsense")
    out, _ = job.communicate(timeout=60)
    assert "queue" not in out
    assert [(tmp_path / f"code.{i}").read_text() for i in (0, 1)] == ["2\n"] * 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_of_two_workers_of_which_one_is_preempted(tmp_path):
    out, epochs = tmp_path / "out", 60
    tiny = ["--model-options", "stages", 2, "channels", 16, "--image-size", 32, "--no-augment"]
    few = ["--patients", 20, "--slices", 4, "--batch-size", 8, "--archs", "cnn", "--seeds", 1, 2]
    options = ["demo", *tiny, *few, "--recipes", "0", "2", "--epochs", epochs, "--out", out]
    options += ["--schedule", "constant", "--early-stopping", "none"]
    job = sbatch(tmp_path, sys.executable, "--array=0-1", SCRIPT, *options)

    def two_are_running() -> bool:
        running = {path.parent for path in out.glob("runs/*/metrics.jsonl")}
        return len(running - {path.parent for path in out.glob("runs/*/summary.json")}) == 2

    wait_for(two_are_running, job)
    terminate(tmp_path, 0)
    said, errors = job.communicate(timeout=1000)
    assert "into the queue again" in said, errors
    assert [(tmp_path / f"code.{i}").read_text() for i in (0, 1)] == ["0\n"] * 2, errors
    runs = sorted(path.parent for path in out.glob("runs/*/summary.json"))
    assert len(runs) == 4
    for run in runs:
        history = (run / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in history] == list(range(1, epochs + 1))
    assert not (out / "report.html").exists()
    watch = [sys.executable, "-m", "fp4jax", "study", "demo", "--out", str(out), "--watch"]
    seen = subprocess.run(watch, cwd=ROOT, capture_output=True, text=True)
    assert seen.returncode == 0, seen.stderr
    assert "4 of 4 runs are over" in seen.stdout
