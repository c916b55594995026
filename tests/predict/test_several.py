"""Several models and mirror images: the mean of what they say."""

import dataclasses

import numpy as np
import pytest
import tifffile

from fp4jax import metrics, predict
from fp4jax.train import train
from tests import blobs
from tests.cli.test_verbs import run as run  # the fixture

COHORT = blobs.cohort(patients=10)


def config(**changes):
    return blobs.config(epochs=1, folds=2, recipe="full", **changes)


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return [train(config(split=f"fold{i}"), COHORT, out)[0].path for i in range(2)]


@pytest.fixture
def slices(tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    for i in range(2):
        tifffile.imwrite(folder / f"{i}.tif", COHORT.images[i + 1], photometric="rgb")
    return folder


def of(network, images=COHORT.images[:3]):
    return np.stack(list(network.probabilities(images)))


def test_the_mean_of_models(folds):
    networks = [predict.from_run(path) for path in folds]
    both = predict.together(networks)
    one, other = map(of, networks)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(of(both), (one + other) / np.float32(2))
    assert predict.together(networks[:1]) is networks[0]
    thresholds = [network.about.threshold for network in networks]
    assert both.about.threshold == pytest.approx(sum(thresholds) / 2)
    assert both.identity != networks[0].identity


def test_the_mean_of_mirror_images(folds):
    network = predict.from_run(folds[0])
    with pytest.raises(ValueError, match="was trained without"):
        predict.with_mirroring(network)
    flipping = dataclasses.replace(network, task=dataclasses.replace(network.task, augment=True))
    mirrored = predict.with_mirroring(flipping)
    assert mirrored.mirror == (0, 1)
    images = COHORT.images[:2]
    logits = [
        np.flip(np.stack(list(network.predicts[0](np.flip(images, axes)))), axes)
        for axes in ((), (1,), (2,), (1, 2))
    ]
    expected = metrics.probabilities(sum(logits) / np.float32(4))
    np.testing.assert_allclose(of(mirrored, images), expected, rtol=1e-6)
    assert mirrored.identity != network.identity


def test_folds_lie_beside(folds, tmp_path):
    assert predict.folds_of(folds[1]) == tuple(folds)
    (alone,) = train(config(split="fold1"), COHORT, tmp_path)
    with pytest.raises(ValueError, match=r"of 2 folds 0 is not beside .*, finished"):
        predict.folds_of(alone.path)
    (holdout,) = train(config(), COHORT, tmp_path)
    with pytest.raises(ValueError, match=r"of no cross-validation, its split is 'holdout'"):
        predict.folds_of(holdout.path)


def test_by_the_command(folds, slices, tmp_path, run):
    assert run("predict", *folds, "--input", slices, "--out", "two")[0] == 0
    assert run("predict", folds[1], "--folds", "--input", slices, "--out", "folds")[0] == 0
    assert run("predict", folds[0], "--input", slices, "--out", "one")[0] == 0
    for name in ("0_mask.tif", "1_mask.tif", "predictions.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "folds" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--save", "m.safetensors"], "--save packs one run"),
        (["--folds", "--input", "slices"], "2 are named"),
        (["--decode", "--input", "slices"], "--decode: for packed files, but"),
        (["--mirror", "--input", "slices"], "was trained without"),
        (["--input", "slices", "--min-component", "1"], "--min-component: of NIfTI cases"),
        (["--input", "slices", "--out", "slices"], "give another --out"),
        (["--input", "slices/0.jpg"], "slices/0.jpg"),
    ],
)
def test_what_would_be_ignored_is_refused(options, says, folds, slices, run):
    code, _, err = run("predict", *folds, *options)
    assert (code, says in err, len(err.splitlines())) == (2, True, 1)


def test_models_of_other_images_do_not_go_together(folds, tmp_path):
    (other,) = train(blobs.config(epochs=1, image_size=16), COHORT.resize(16), tmp_path)
    with pytest.raises(ValueError, match=r"has image_size 32, .* has 16"):
        predict.together([predict.from_run(path) for path in (folds[0], other.path)])
