"""CONTRIBUTING.md: its diffs apply to the tree, and do what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "runs", "results", "__pycache__", ".*_cache")


def apply(diff: str, folder: Path, *options: str) -> None:
    run = subprocess.run(
        ["git", "apply", *options, "-"],
        input=diff,
        cwd=folder,
        capture_output=True,
        text=True,
        # No repository above the folder: paths are the folder's.
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
    )
    assert run.returncode == 0, f"{run.stderr}\n{diff}"


def test_there_is_one_for_each_kind():
    new = re.findall(r"^\+\+\+ b/(.*)", "\n".join(DIFFS), re.M)
    assert len(DIFFS) == 5
    for folder in ("ops", "models", "data", "study/engines", "core"):
        assert any(path.startswith(f"fp4jax/{folder}/") for path in new)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy of the tree with all of them."""
    folder = tmp_path_factory.mktemp("tree") / "fp4jax"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    for diff in DIFFS:
        apply(diff, folder)
    return folder


def test_they_apply(changed):
    assert (changed / "fp4jax" / "models" / "pixelwise.py").exists()
    assert (changed / "fp4jax" / "study" / "engines" / "backwards.py").exists()


def python(folder: Path, place: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *arguments]
    run = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout[-3000:]}{run.stderr[-3000:]}"
    return run.stdout


@pytest.mark.slow
def test_a_study_with_all_of_them(changed, tmp_path):
    """The model under the recipe and in the format, on the data set, by the engine."""
    rng = np.random.default_rng(0)
    masks = np.zeros((24, 16, 16), np.uint8)
    masks[:, :8, :8] = 1
    np.savez(
        tmp_path / "slices.npz",
        images=(masks[..., None] * 150 + rng.integers(0, 50, (24, 16, 16, 1))).astype(np.uint8),
        masks=masks,
        patient_ids=np.array([f"p{i // 2:02}" for i in range(24)]),
        slice_index=(np.arange(24) % 2).astype(np.int32),
        channels=np.array(["flair"]),
    )
    options = "--data npz --root . --image-size 16 --archs pixelwise --scales tiny --epochs 1"
    recipes = ("2d", "mxfp6_e2m3_full")
    options += " --methods qat --seeds 2026 --engine backwards --out runs"
    words = ["study", "lgg-cpu", *options.split(), "--recipes", *recipes]
    python(changed, tmp_path, "-m", "fp4jax", *words, "--model-options", "width", "16")
    names = sorted(path.parent.name for path in tmp_path.glob("runs/runs/*/summary.json"))
    assert [name.split("_npz")[0] for name in names] == [
        "pixelwise_tiny_2d",
        "pixelwise_tiny_mxfp6_e2m3_full",
    ]


@pytest.mark.slow
def test_the_tests_of_what_they_touch(changed):
    files = [
        "tests/ops/test_recipe.py",
        "tests/models/test_options.py",
        "fp4jax/core/number_format.py",
    ]
    python(changed, changed, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    lint = [str(Path(sys.executable).with_name("ruff"))]
    for words in (["check", "fp4jax"], ["format", "--check", "fp4jax"]):
        run = subprocess.run([*lint, *words], cwd=changed, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout
