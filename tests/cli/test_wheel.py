"""The wheel in an empty environment, from an empty folder: the same commands, the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fp4jax

ROOT = Path(__file__).parents[2]
PINS = ROOT / f"constraints-{'3.11' if sys.version_info < (3, 12) else '3.13'}.txt"
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
# Tiny, and of a recipe with random bits.
STUDY = [
    "study", "demo", "--archs", "cnn", "--recipes", "baseline", "2d+rht+sr", "--epochs", "2",
    "--patients", "12", "--slices", "4", "--batch-size", "8", "--model-options", "stages", "2",
    "channels", "16", "--out",
]  # fmt: skip
# How long it took.
TIMES = {"seconds", "waited", "train_seconds"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def run(folder: Path, *command: object) -> str:
    """What a command prints, of the environment alone."""
    variables = {"JAX_PLATFORMS": "cpu", "FP4JAX_CACHE": str(folder / "cache")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env=kept | variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def bin(tmp_path_factory) -> Path:
    """Programs of an environment that has the wheel, and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(folder, sys.executable, *PIP, "wheel", "--no-deps", "-w", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").iterdir()
    assert wheel.name.startswith(f"fp4jax-{fp4jax.__version__}-")
    run(folder, sys.executable, "-m", "venv", folder / "venv")
    programs = folder / "venv" / "bin"
    run(folder, programs / "python", *PIP, "install", f"{wheel}[study,deploy]", "-c", PINS)
    return programs


@pytest.fixture(scope="module")
def studied(bin, tmp_path_factory) -> Path:
    """A folder that was empty, after the command's study in ``installed``."""
    folder = tmp_path_factory.mktemp("empty")
    assert "report.html" in run(folder, bin / "fp4jax", *STUDY, "installed")
    return folder


def test_it_is_the_wheel(bin, studied):
    where = run(studied, bin / "python", "-c", "import fp4jax; print(fp4jax.__file__)")
    assert Path(where.strip()).is_relative_to(bin.parent)
    assert run(studied, bin / "fp4jax", "--version") == f"fp4jax {fp4jax.__version__}\n"
    assert "  study " in run(studied, bin / "fp4jax", "--help")
    assert run(studied, bin / "python", "-m", "fp4jax", "slurm", "study").startswith("#!/bin/bash")


def test_export_and_report(bin, studied):
    (folder,) = studied.glob("installed/runs/cnn_500k_2d-rht-sr_*")
    out = run(
        studied, bin / "fp4jax", "export", folder, "--to", "onnx-portable", "--out", "cnn.onnx"
    )
    assert "largest difference from the packed model in onnxruntime" in out
    assert (studied / "cnn.onnx").exists()
    assert run(studied, bin / "fp4jax", "report", "installed").startswith("2 runs finished")
    # What a report says to repeat it is what was called.
    assert "fp4jax study demo --archs cnn" in (studied / "installed" / "report.html").read_text()


def records(path: Path) -> list[dict]:
    """The JSON of a file, or of its lines, but for times."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines if line]


def test_the_source_tree_gives_the_same_bits(bin, studied):
    out = studied / "tree"
    command = [bin / "python", "-m", "experiments.study", *STUDY[1:], out]
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "FP4JAX_CACHE": str(studied / "cache")}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in (out / "runs").iterdir())
    assert runs == sorted(path.name for path in (studied / "installed" / "runs").iterdir())
    assert len(runs) == 2
    for name in runs:
        mine, theirs = (studied / part / "runs" / name for part in ("installed", "tree"))
        for file in ("summary.json", "metrics.jsonl", "config.json", "split.json"):
            assert records(mine / file) == records(theirs / file)
        with np.load(mine / "test_scores.npz") as a, np.load(theirs / "test_scores.npz") as b:
            assert set(a) == set(b)
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
