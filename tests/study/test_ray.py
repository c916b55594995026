"""The Ray engine: the same summaries as here, whatever is lost on the way."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fabricated_training import read_journal
from fp4jax.analysis.report import report_folder
from fp4jax.study.engines.ray_tasks import task

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra ray"
)


def start(out: Path, kind: str, where: str) -> dict:
    """What tests.study.ray_study prints; in a process of its own, as Ray has many threads."""
    command = [sys.executable, "-m", "tests.study.ray_study", str(out), kind, where]
    variables = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def summaries(out: Path) -> dict:
    found = {
        path.parent.name: json.loads(path.read_text()) for path in out.glob("runs/*/summary.json")
    }
    for summary in found.values():
        del summary["train_seconds"]
    return found


def test_a_task_with_a_gpu_has_a_process_of_its_own():
    ray = pytest.importorskip("ray")
    with_gpu, without = (task(ray, gpus, 2, 50)._default_options for gpus in (0.5, 0))
    assert (with_gpu["num_gpus"], with_gpu["num_cpus"], with_gpu["max_retries"]) == (0.5, 2, 50)
    assert with_gpu["max_calls"] == 1
    assert "max_calls" not in without


def test_a_local_ray_is_started_and_ended(tmp_path):
    told = start(tmp_path / "ray", "short", "ray")
    expected = {"finished": 3, "trained": 0, "failures": []}
    assert told == expected | {"driver_has_devices": False, "ray_is_left": False}
    assert summaries(tmp_path / "ray") == summaries(tmp_path / "local")
    journal = read_journal(tmp_path / "ray")
    assert len(journal) == 3
    # Its student came after the baseline, though there was room for both.
    ended = {line["run"]: line["ended"] for line in journal}
    (baseline,) = (run for run in ended if "baseline" in run)
    (student,) = (line for line in journal if "qad" in line["run"])
    assert student["began"] >= ended[baseline]


@pytest.mark.slow
def test_several_processes_share_a_gpu(tmp_path):
    """A GPU that Ray is told of; JAX is not."""
    told = start(tmp_path / "ray", "short", "gpu")
    assert (told["finished"], told["trained"], told["failures"]) == (3, 0, [])
    assert summaries(tmp_path / "ray") == summaries(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["fabricated", "real"])
def test_a_cluster_that_loses_a_node_and_gets_one(kind, tmp_path):
    told = start(tmp_path / "cluster", kind, "cluster")
    count = {"fabricated": 6, "real": 8}[kind]
    # All were finished by Ray: nothing was left for this process.
    assert (told["finished"], told["trained"], told["failures"]) == (count, 0, [])
    assert len(told["running"]) == 2
    # The head, the node that was left and the one that came.
    assert told["nodes"] == 3
    start(tmp_path / "local", kind, "local")
    ours, theirs = summaries(tmp_path / "cluster"), summaries(tmp_path / "local")
    assert ours == theirs
    # What is quantized after training has no epochs.
    for path in (tmp_path / "cluster").glob("runs/*/metrics.jsonl"):
        epochs = [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
        assert epochs == list(range(1, {"fabricated": 8, "real": 30}[kind] + 1))
    report = report_folder(tmp_path / "cluster")
    assert (report.finished, report.open, report.failures) == (count, (), ())
    if kind == "fabricated":
        # A guard in it, beside the store's lock, fails where a run is trained twice at once.
        journal = read_journal(tmp_path / "cluster")
        assert sum(line["epochs"] for line in journal) < 8 * count
        assert {line["run"] for line in journal} == set(ours)
