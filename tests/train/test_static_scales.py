"""Static scales of runs: calibrated after the training, or running along with it."""

import os
import signal

import numpy as np
import pytest

from fp4jax import nnx as fp4nnx, predict
from fp4jax.train import (
    Listener,
    Options,
    RunFolder,
    Terminated,
    evaluate_folder,
    read_trained,
    train,
)
from fp4jax.train.static_scales import read_amaxes
from tests import blobs
from tests.train import outcome

COHORT = blobs.cohort()
CONFIG = blobs.config(recipe="forward_only", epochs=1, calibrate="max", calibration_batches=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    (one,) = train(CONFIG, COHORT, tmp_path_factory.mktemp("run"))
    return one


def test_a_summary_has_both_scores_side_by_side(folder):
    summary = folder.summary()
    assert summary["static"].keys() >= {"method", "threshold", "val", "test", "test_patients"}
    assert summary["static"]["test"].keys() == summary["test"].keys()
    assert (folder.path / "static" / "test_scores.npz").exists()
    amaxes, model = read_amaxes(folder.path), read_trained(folder.path, static=True).model()
    assert list(amaxes) == list(fp4nnx.static_amaxes(model.network()))
    assert all(amax > 0 for amax in amaxes.values())


def test_evaluation_and_files_take_the_scales_that_are_asked_for(folder, tmp_path):
    summary = folder.summary()
    for static in (False, True):
        scores = evaluate_folder(folder.path, COHORT, static=static)
        known = summary["static"] if static else summary
        assert scores["auprc"] == known["test"]["auprc"]
        assert scores["threshold"] == known["threshold"]
    network = predict.from_run(folder.path, static=True)
    assert network.about.recipe == "forward_only+static"
    image = COHORT.images[:1]
    (own,) = network.predicts[0](image)
    model, about = predict.packed_run(folder.path, static=True)
    path = predict.save_packed(tmp_path / "a.safetensors", model, about)
    (packed,) = predict.from_file(path).predicts[0](image)
    np.testing.assert_allclose(packed, own, rtol=0, atol=1e-5 * np.abs(own).max())
    # Alone or among others.
    logits = read_trained(folder.path, static=True).model().logits
    np.testing.assert_array_equal(logits(COHORT.images[:3])[0], own)
    (dynamic,) = predict.from_run(folder.path).predicts[0](image)
    assert (dynamic != own).any()


class At(Listener):
    """Asks for the end after so many steps."""

    def __init__(self, step: int):
        self.left, self.taken = step, 0

    def steps(self, done: int) -> None:
        self.taken += done
        if self.taken == self.left:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_running_amaxes_and_a_warm_start_go_on_with_the_same_bits(tmp_path):
    config = blobs.config(
        recipe="full", epochs=2, running_amax=0.9, warm_start_steps=3, patients=12
    )
    (whole,) = train(config, COHORT, tmp_path / "whole")
    for stop in (2, 7):
        with pytest.raises(Terminated):
            train(config, COHORT, tmp_path / "part", options=Options(At(stop)))
    (folder,) = train(config, COHORT, tmp_path / "part")
    outcome.assert_same(folder, whole)
    amaxes = fp4nnx.static_amaxes(read_trained(folder.path).model().network())
    assert len(amaxes) >= 1
    assert all(amax > 0 for amax in amaxes.values())
    model, _ = predict.packed_run(folder.path)
    assert fp4nnx.static_amaxes(model) == amaxes
