"""Packed files are evaluated: on patients that their run has not seen."""

import dataclasses
import json

import numpy as np
import pytest

from fp4jax import predict
from fp4jax.predict.about import hashed
from fp4jax.train import RunConfig, Slices, Source, read_trained, train
from tests import blobs
from tests.cli.test_verbs import run as run  # the fixture

COHORT = blobs.cohort()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    (folder,) = train(blobs.config(epochs=3, recipe="full"), COHORT, tmp_path_factory.mktemp("r"))
    return folder.path


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "m.safetensors"
    return predict.save_packed(path, *predict.packed_run(trained))


def test_its_test_patients_are_scored(trained, file):
    run, scores = read_trained(trained), predict.evaluate_file(file, COHORT)
    assert scores["scored"] == (
        "2 patients scored; left out: 9 trained on, 1 the epoch was chosen on"
    )
    assert scores["left_out"]["trained on"] == sorted(run.split.train)
    assert scores["run"] == trained.name
    for name, value in run.summary["test"].items():
        if name.startswith(("hard_", "auprc")) and isinstance(value, float):
            assert scores[name] == pytest.approx(value, abs=0.02), name


def test_patients_are_known_under_other_names(trained, file):
    ids = np.array([f"x{name}" for name in COHORT.patient_ids])
    scores = predict.evaluate_file(file, dataclasses.replace(COHORT, patient_ids=ids))
    assert scores["patients"] == 2
    with pytest.raises(ValueError, match="no patient is left"):
        predict.evaluate_file(file, COHORT.select(read_trained(trained).split.train))


def test_ids_are_not_in_the_file(file):
    content = file.read_bytes()
    for patient in COHORT.patients:
        assert f'"{patient}"'.encode() not in content
        assert hashed(patient).encode() in content


def test_files_that_do_not_know_their_patients(trained, tmp_path):
    model, about = predict.packed_run(trained)
    about = dataclasses.replace(about, patients={}, contents={}, digest="")
    path = predict.save_packed(tmp_path / "old.safetensors", model, about)
    with pytest.raises(ValueError, match=r"not on which patients that was trained"):
        predict.evaluate_file(path, COHORT)
    scores = predict.evaluate_file(path, COHORT, all_patients=True)
    assert scores["patients"] == 12
    assert "is not known" in scores["scored"]


def test_by_the_command(tmp_path, run):
    """A run and its file, with latency."""
    few = {"patients": 10, "slices": 4}
    task = Slices("phantom", image_size=32, augment=False, **few)
    config = RunConfig(
        task, arch="cnn", recipe="full", epochs=1, batch_size=8, model_options=blobs.TINY
    )
    (folder,) = train(config, task.open(Source()), tmp_path)
    assert run("predict", folder.path, "--save", "m.safetensors", "--rest", "float32")[0] == 0
    found = []
    for path in (folder.path, "m.safetensors"):
        code, out, err = run("evaluate", path, "--time")
        assert (code, err) == (0, "")
        found.append(json.loads(out))
    one, other = found
    assert (other["file"], other["scored"]) == ("m.safetensors", one["scored"])
    assert other["auprc"] == pytest.approx(one["auprc"], abs=1e-3)
    for record in found:
        assert 0 < record["latency_ms"]["median"] <= record["latency_ms"]["p95"]
        assert record["latency_ms"]["machine"]
