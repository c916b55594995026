"""The diagnosis of a run: which patients, batches and recipes; the command and what it writes."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis import of_run, record
from fp4jax.analysis.diagnosis.run import batches_of, diagnose_run, patients_of, recipes_for
from fp4jax.data import phantom
from fp4jax.train import Data, RunConfig, Slices, Source, Volumes, read_trained
from tests import blobs
from tests.analysis.diagnosed import parts, values
from tests.finished_runs import finished
from tests.samples import normal

PHANTOM = Slices("phantom", image_size=32, patients=12, slices=4, augment=False)


def config(**changes) -> RunConfig:
    """A tiny CNN on slices."""
    options: dict[str, Any] = {"data": PHANTOM, "arch": "cnn", "recipe": "baseline", "epochs": 1}
    return RunConfig(**{**options, "model_options": blobs.TINY, "batch_size": 8, **changes})


def test_recorded_tensors_are_those_of_the_model():
    subject = of_run(config(recipe="full"), 3)
    cohort = blobs.cohort(2, 2)
    batch = jnp.asarray(cohort.images), jnp.asarray(cohort.masks)
    params, stats = jax.jit(lambda: parts(subject.build(fp4.get_recipe("baseline"))))()
    calls, (tensors,) = record(subject, "full", params, stats, [batch])
    quantized = fp4nnx.report(nnx.eval_shape(lambda: subject.build(fp4.get_recipe("full"))))
    assert sorted(calls) == sorted(layer.path for layer in quantized.quantized)
    # x, g and the layer's own wgrad give the gradient that autodiff finds in the whole model.
    bind = subject.structure("baseline")
    gradient = jax.jit(jax.grad(lambda p: subject.loss(bind(p, stats), batch)))(params)
    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(gradient)}
    for name, call in calls.items():
        _, backward = jax.vjp(
            lambda w, t=tensors[name], c=call: c(t.x, w, "baseline"), tensors[name].w
        )
        (dw,) = backward(tensors[name].g)
        np.testing.assert_allclose(dw, flat[f"{name}.kernel"][...], rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of a baseline run on the phantom."""
    return finished(tmp_path_factory.mktemp("runs"), config(), PHANTOM.open(Source()))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Data:
    """Four patients, as NIfTI files."""
    root = tmp_path_factory.mktemp("volumes")
    phantom.write_nifti(root / "all", patients=4, slices=16, image_size=16)
    task = Volumes(patch_size=(8, 8, 8), steps=3, val_share=0.25, test_share=0.25)
    return task.open(Source(root / "all", root / "cache"))


UNET = {"channels": (4, 8), "strides": (2,)}


def volume_config(data: Any, **changes) -> RunConfig:
    return RunConfig(data.task, arch="unet", model_options=UNET, batch_size=2, epochs=2, **changes)


def test_batches_are_of_training_patients_and_of_no_epoch_that_training_had(folder):
    run, data = read_trained(folder), PHANTOM.open(Source())
    chosen = patients_of(run, data)
    assert run.split is not None
    assert chosen.patients == run.split.train
    assert str(chosen) == f"{len(run.split.train)} patients that it was trained on"
    own = data.cohort.select(chosen.patients).images
    found = batches_of(run.config, data, chosen.patients, 2)
    for images, masks in found:
        assert (images.shape, masks.shape) == ((8, 32, 32, 3), (8, 32, 32))
        assert all((own == image).all((1, 2, 3)).any() for image in np.asarray(images))
    first = next(data.feed(run.config, chosen.patients, run.config.seed).batches(1))
    assert not np.array_equal(first.images, found[0][0])


def test_of_other_data_all_patients_are_taken(folder):
    """None of those that the run was trained on has to be there."""
    run, other = read_trained(folder), PHANTOM.bind(blobs.cohort(3, 2))
    other.channels = run.channels
    chosen = patients_of(run, other)
    assert chosen.patients == ("p00", "p01", "p02")
    assert "of other data" in str(chosen)
    other.channels = ("a", "b", "c")
    with pytest.raises(ValueError, match="have the channels a, b, c"):
        patients_of(run, other)


def test_batches_of_volumes(volumes, tmp_path):
    """By the split in the folder: another one than the configuration's would be."""
    config = volume_config(volumes)
    names = volumes.patients
    split = fp4.data.Split(names[:1], names[1:2], names[2:], "by hand")
    run = read_trained(finished(tmp_path, config, volumes, split))
    chosen = patients_of(run, volumes)
    assert chosen.patients == names[:1] != volumes.split(config).train
    ((images, targets),) = batches_of(config, volumes, chosen.patients, 1)
    assert images.shape == (2, 8, 8, 8, 4)
    assert targets.shape == (2, 8, 8, 8, 3)


@pytest.mark.slow  # two gradients of a network, whose parts the others test
def test_a_run_of_volumes_is_diagnosed(volumes, tmp_path):
    path = finished(tmp_path, volume_config(volumes, recipe="full"), volumes)
    rows = diagnose_run(path, volumes, states=["best"], batches=1)
    assert (path / "diagnosis.png").read_bytes()[:4] == b"\x89PNG"
    assert {row["recipe"] for row in rows} == {"full"}
    layers = {row["layer"] for row in rows} - {"total"}
    assert layers
    assert len(values(rows, quantity="sqnr_db")) == 6 * len(layers)
    assert all(5 < value < 60 for value in values(rows, quantity="sqnr_db"))


def test_the_loss_is_that_of_the_run(volumes):
    """Of several regions, and of classes that exclude each other."""
    images = normal(1, 2, 8, 8, 8, 4)
    targets = jnp.zeros((2, 8, 8, 8, 3), jnp.uint8).at[:, :4, :, :, 0].set(1)
    for loss, outputs in (("bce_dice", 3), ("ce_dice", 4)):
        subject = of_run(volume_config(volumes, loss=loss), 4, 3)

        def both(subject=subject):
            model: Any = subject.build(fp4.get_recipe("baseline"))
            return model(images), subject.loss(model, (images, targets))

        logits, value = jax.eval_shape(both)
        assert logits.shape == (2, 8, 8, 8, outputs)
        assert value.shape == ()


@pytest.mark.slow  # two states of a network under two recipes, whose parts the others test
def test_the_command_writes_a_table_and_a_picture(folder, diagnose):
    code, out, err = diagnose(folder, "--recipes", "6", "--draws", "2")
    assert (code, err) == (0, "")
    assert out.rstrip().endswith(f"{folder / 'diagnosis.csv'}\n{folder / 'diagnosis.png'}")
    assert "decoders.0" in out
    assert (folder / "diagnosis.png").read_bytes()[:4] == b"\x89PNG"
    with (folder / "diagnosis.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["run", "state", "recipe", "layer", "quantity", "of", "value"]
    assert {row["run"] for row in rows} == {folder.name}
    assert {row["state"] for row in rows} == {"init", "best"}
    assert {row["recipe"] for row in rows} == {"baseline", "sr"}
    assert {row["layer"] for row in rows} == {"decoders.0", "total"}
    ratios = [float(row["value"]) for row in rows if row["quantity"] == "sqnr_db"]
    assert len(ratios) == 12
    assert all(10 < value < 40 for value in ratios)


def test_which_recipes_a_run_is_diagnosed_under():
    def names(config, asked=()):
        return [recipe.name for recipe in recipes_for(config, asked)]

    full = config(recipe="full")
    assert names(config()) == ["full", "2d+rht+sr"]
    assert names(full) == ["full"]
    assert names(full, (5, "sr", "5")) == ["2d+rht+sr", "sr"]
    own = dataclasses.replace(fp4.get_recipe("full"), name="own")
    assert recipes_for(config(recipe=own)) == [own]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipes", "fp5"], "known names"),
        (["--recipes", "0"], "nothing to measure"),
        (["--batches", "0"], "at least 1"),
        (["--batches", "99"], "patients make"),
        (["--states", "last"], "last"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments, says, folder, diagnose):
    code, _, err = diagnose(folder, *arguments)
    assert code == 2
    assert says in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1


def test_of_its_training_a_run_keeps_the_best_epoch_alone(folder):
    with pytest.raises(ValueError, match="states has last; allowed: init, best"):
        diagnose_run(folder, blobs.cohort(2, 2), states=["last"])


def test_a_folder_without_a_run_is_one_line(tmp_path, diagnose):
    code, _, err = diagnose(tmp_path)
    assert (code, "holds no run" in err) == (2, True)
    assert len(err.strip().splitlines()) == 1
