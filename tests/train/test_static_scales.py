"""Static scales of runs: calibrated after the training, or running along with it."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import nnx as fp4nnx, predict
from fp4jax.data import phantom
from fp4jax.train import (
    Listener,
    Options,
    RunFolder,
    Terminated,
    dry_run,
    evaluate_folder,
    read_trained,
    train,
)
from fp4jax.train.program import program_of
from fp4jax.train.static_scales import read_amaxes, with_amaxes
from tests import blobs
from tests.train import outcome, test_train_program as steps, test_volumes as volumes

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
    assert predict.scales_of_x(folder.path, model) == "static scales of x"
    path = predict.save_packed(tmp_path / "a.safetensors", model, about)
    (packed,) = predict.from_file(path).predicts[0](image)
    np.testing.assert_allclose(packed, own, rtol=0, atol=1e-5 * np.abs(own).max())
    # Alone or among others.
    logits = read_trained(folder.path, static=True).model().logits
    np.testing.assert_array_equal(logits(COHORT.images[:3])[0], own)
    (dynamic,) = predict.from_run(folder.path).predicts[0](image)
    assert (dynamic != own).any()
    plain, _ = predict.packed_run(folder.path)
    assert "the run has static ones too, --static packs" in predict.scales_of_x(folder.path, plain)


def test_amaxes_that_are_missing_are_named(folder):
    amaxes = read_amaxes(folder.path)
    (first, *_) = amaxes
    model = read_trained(folder.path).model()
    with pytest.raises(ValueError, match=f"there is no static amax of {first}: the run was cal"):
        with_amaxes(model, {path: a for path, a in amaxes.items() if path != first})


@pytest.mark.slow
def test_a_run_with_quantized_attention(tmp_path):
    """Its q, k, P and v have static scales, too, though the recipe of layers quantizes nothing."""
    options = {"depth": 1, "dim": 16, "heads": 2, "hidden": 16, "patch": 8, "window": 4}
    config = blobs.config(
        arch="swin",
        model_options=options,
        recipe="baseline",
        attention="attention_qat",
        epochs=1,
        calibrate="max",
        calibration_batches=1,
    )
    (run,) = train(config, COHORT, tmp_path)
    amaxes = read_amaxes(run.path)
    assert {path.rpartition(".")[2] for path in amaxes} == set("qkpv")
    assert all(amax > 0 for amax in amaxes.values())
    scores = evaluate_folder(run.path, COHORT, static=True)
    assert scores["auprc"] == run.summary()["static"]["test"]["auprc"]


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
    assert list(amaxes) == ["decoders.0"]
    assert all(amax > 0 for amax in amaxes.values())
    model, _ = predict.packed_run(folder.path)
    assert fp4nnx.static_amaxes(model) == amaxes


@pytest.mark.slow
def test_volumes_have_both_scores_too(tmp_path):
    phantom.write_nifti(tmp_path / "all", patients=6, slices=20, image_size=32)
    config = volumes.config(recipe="full", epochs=1, calibrate="percentile", warm_start_steps=2)
    data = volumes.opened(config, tmp_path)
    (folder,) = train(config, data, tmp_path / "runs")
    summary = folder.summary()
    static = summary["static"]
    assert static["test"].keys() == summary["test"].keys()
    assert static["test_regions"].keys() == summary["test_regions"].keys()
    maps = [
        sorted(p.name for p in (folder.path / part / "predictions").iterdir())
        for part in ("", "static")
    ]
    assert maps[0] == maps[1] != []
    scores = evaluate_folder(folder.path, data, static=True)
    assert scores["dice"] == static["test"]["dice"]
    assert list(read_amaxes(folder.path)) == ["bottom.conv"]


@pytest.mark.slow
def test_warm_steps_are_those_of_the_baseline():
    run = blobs.config(recipe="full", warm_start_steps=2, keep=())
    program = program_of(run, 3)
    plain = program_of(blobs.config(recipe="baseline", keep=()), 3)
    state, other = program.start(0), plain.start(0)
    batch = steps.batch()
    for step in range(3):
        state, values = program.step(state, batch)
        other, expected = plain.step(other, batch)
        assert (values["loss"] == expected["loss"]) == (step < 2)
    # In a scan, and in lanes of which one has warmed up.
    lanes = program_of(run, 3, lanes=2)
    starts = [program.start(0), program.start(0)]
    starts[1].step = jnp.int32(2)
    both = jax.tree.map(lambda *a: jnp.stack(a), *starts)
    two = jax.tree.map(lambda a: jnp.stack([a, a]), batch)
    _, values = lanes.step(both, two, jnp.array([True, True]))
    _, warm = plain.step(plain.start(0), batch)
    np.testing.assert_allclose(values["loss"][0], warm["loss"], rtol=1e-5)
    assert abs(float(values["loss"][1] - values["loss"][0])) > 1e-4


def test_a_warm_start_of_all_steps_is_refused_before_there_is_a_folder(tmp_path):
    config = blobs.config(recipe="full", epochs=1, warm_start_steps=10_000)
    with pytest.raises(ValueError, match="warm_start_steps is 10000, but the training has"):
        train(config, COHORT, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="none would be left for the recipe"):
        dry_run(config, COHORT)
