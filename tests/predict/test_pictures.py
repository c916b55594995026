"""Pictures of what runs found: whose are drawn, and what they show."""

import numpy as np
import pytest
from PIL import Image

from fp4jax.predict import Pictures, slice_picture
from fp4jax.train import RunConfig, Slices
from fp4jax.train.patients import Examples, write_examples
from tests.test_package import run_python

SUMMARY = {"threshold": 0.5, "test_patients": {"a": 0.9, "b": 0.2, "c": None, "d": 0.5}}


@pytest.fixture
def folder(tmp_path):
    """As a finished run leaves it."""
    rng = np.random.default_rng(0)
    n = 4
    found = Examples(
        patients=np.array(["a", "b", "c", "d"]),
        slices=np.arange(n),
        images=rng.integers(0, 255, (n, 16, 16, 2), dtype=np.uint8),
        masks=rng.integers(0, 2, (n, 16, 16), dtype=np.uint8),
        probabilities=rng.random((n, 16, 16)).astype(np.float16),
    )
    write_examples(tmp_path / "examples.npz", found)
    return tmp_path


def ended(listener: Pictures, cohort: str, folder, summary=SUMMARY) -> bool:
    listener.ended(RunConfig(Slices(cohort), arch="cnn"), summary, folder)
    return (folder / "predictions.png").exists()


def test_real_patients_are_drawn_only_if_asked_for(folder):
    assert not ended(Pictures(), "lgg", folder)
    assert not ended(Pictures(), "phantom", folder, None)
    assert ended(Pictures(always=True), "lgg", folder)


def test_the_back_end_of_a_notebook_does_no_harm(folder, monkeypatch):
    """It is asked for by all that a notebook starts, and need not be installed."""
    monkeypatch.setenv("MPLBACKEND", "module://no_such_back_end")
    run_python(
        "from pathlib import Path; from fp4jax.predict.pictures import draw_run; "
        f"draw_run(Path({str(folder)!r}), {SUMMARY})"
    )
    with Image.open(folder / "predictions.png") as image:
        assert image.size[0] > 500


def test_the_synthetic_cohort_is_always_drawn_and_once(folder):
    assert ended(Pictures(), "phantom", folder)
    path = folder / "predictions.png"
    before = path.stat().st_mtime_ns
    assert ended(Pictures(always=True), "phantom", folder)
    assert path.stat().st_mtime_ns == before


def test_a_run_without_test_patients_has_no_picture(folder):
    assert not ended(Pictures(), "phantom", folder, {"threshold": 0.5, "test_patients": {}})
    (folder / "examples.npz").unlink()
    assert not ended(Pictures(), "phantom", folder)


def test_misses_are_magenta():
    """As the legend says: red and blue without green."""
    red, green, blue = slice_picture.MISS
    assert min(red, blue) > green
    truth = np.ones((1, 4, 4), np.uint8)
    grey = np.zeros((1, 4, 4, 3), np.uint8)
    none = np.zeros((1, 4, 4), np.float16)
    examples = Examples(np.array(["a"]), np.array([0]), grey, truth, none)
    *_, error = slice_picture._panels(examples, 0, 0.5)
    assert (error == (0.65 * np.array(slice_picture.MISS)).astype(np.uint8)).all()
