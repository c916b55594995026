"""Networks of slices on NIfTI cases: the slices are the cohort's, the results lie in the volume."""

import dataclasses
import shutil

import nibabel
import numpy as np
import pytest

from fp4jax import predict
from fp4jax.data import nifti, phantom
from fp4jax.data.nifti.slices import read_slices
from fp4jax.data.resize import resize_masks
from fp4jax.predict import CaseOptions
from fp4jax.predict.slice_stack import WINDOW, SliceStack
from fp4jax.train import RunConfig, Slices, Source, train
from tests import blobs
from tests.experiments.test_experiments import run as run  # the fixture

MODALITIES = ("flair", "t1c")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Six phantom patients in ``all``, one without its labels in ``new``."""
    base = tmp_path_factory.mktemp("brains")
    phantom.write_nifti(base / "all", patients=12, slices=16, image_size=32)
    first = sorted((base / "all").iterdir())[0]
    ignored = shutil.ignore_patterns("*-seg.nii.gz")
    shutil.copytree(first, base / "new" / first.name, ignore=ignored)
    return base


@pytest.fixture(scope="module")
def trained(base):
    task = Slices("brats", image_size=32, modalities=MODALITIES, augment=False)
    cohort = nifti.load(base / "all", modalities=MODALITIES, image_size=32, cache=False)
    config = RunConfig(
        task,
        arch="cnn",
        recipe="full",
        epochs=3,
        batch_size=8,
        learning_rate=3e-3,
        model_options=blobs.TINY,
    )
    (folder,) = train(config, cohort, base / "runs")
    return folder.path


@pytest.mark.parametrize("size", [32, 20])
def test_slices_are_those_of_the_cohort(base, size):
    for case in nifti.find_cases(base / "all")[:3]:
        expected = read_slices(case, MODALITIES, "whole_tumour", size, WINDOW)
        stack = SliceStack.of(case, MODALITIES, size)
        np.testing.assert_array_equal(stack.images, expected.images)


def test_masks_come_back_to_where_they_were(base):
    """Of slices that are not resized, to the voxel."""
    case = nifti.find_cases(base / "all")[0]
    volume = nifti.VolumeSet([case], cache=False).load(0)
    side = SliceStack.of(case, MODALITIES, 8).side
    stack = SliceStack.of(case, MODALITIES, side)
    slices = read_slices(case, MODALITIES, "whole_tumour", side, WINDOW)
    np.testing.assert_array_equal(stack.masks(slices.masks), volume.target[..., 0])
    maps = stack.maps(slices.masks.astype(np.float32))
    np.testing.assert_array_equal(maps, volume.target[..., 0])


def test_cases_are_segmented_as_slices_are(trained, base, tmp_path, run):
    """By both commands; with geometry of the source and the masks of the network's slices."""
    arguments = ("--probabilities", "--pictures")
    code, out, err = run("segment", trained, "--root", base / "new", "--out", "a", *arguments)
    assert (code, err, "whole_tumour" in out) == (0, "", True)
    assert run("predict", trained, "--input", base / "new", "--out", "b", *arguments)[0] == 0
    (path,) = (p for p in (tmp_path / "a").glob("*.nii.gz") if "prob" not in p.name)
    assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()
    (case,) = nifti.find_cases(base / "new")
    image = nibabel.load(case.images[0][1])
    found = nibabel.load(path)
    assert found.shape == image.shape
    np.testing.assert_array_equal(found.affine, image.affine)
    network = predict.from_run(trained)
    stack = SliceStack.of(case, MODALITIES, 32)
    p = np.stack(list(network.probabilities(stack.images)))[..., 0]
    masks = resize_masks((p >= network.about.threshold).astype(np.uint8), (stack.side,) * 2)
    assert np.count_nonzero(found.dataobj) == masks[:, stack.rows, stack.columns].sum() > 0
    name = path.name.replace(".nii.gz", "_probabilities.nii.gz")
    assert nibabel.load(tmp_path / "a" / name).shape == (*image.shape, 1)


def test_scores_where_there_are_labels(trained, base, tmp_path):
    network, source = predict.from_run(trained), Source(base / "all")
    found = predict.segment_volumes(network, source, tmp_path)
    assert len(found) == 12
    assert sum(case.volumes["whole_tumour"] for case in found) > 0
    for case in found[:3]:
        label = base / "all" / case.case / f"{case.case}-seg.nii.gz"
        p, t = (np.asarray(nibabel.load(path).dataobj) > 0 for path in (case.path, label))
        dice = 2 * (p & t).sum() / (p.sum() + t.sum())
        assert case.scores["whole_tumour"]["dice"] == pytest.approx(dice)
    every = predict.segment_volumes(network, source, tmp_path / "0", CaseOptions(threshold=0.0))
    assert all(case.scores["whole_tumour"]["sensitivity"] == 1 for case in every)
    # By a packed file too, which says what it needs.
    packed, about = predict.packed_run(trained)
    (again, *_) = predict.segment_volumes(
        predict.from_module(packed, about),
        source,
        tmp_path / "packed",
    )
    assert again.volumes["whole_tumour"] == pytest.approx(found[0].volumes["whole_tumour"], rel=0.1)


def test_one_file_is_a_case(trained, base, tmp_path, run):
    (case,) = nifti.find_cases(base / "new")
    images = [nibabel.load(case.image(name)[0]) for name in MODALITIES]
    data = np.stack([np.asarray(image.dataobj) for image in images], -1)
    nibabel.save(nibabel.Nifti1Image(data, images[0].affine), tmp_path / "both.nii.gz")
    assert run("predict", trained, "--input", "both.nii.gz", "--out", "one")[0] == 0
    assert run("predict", trained, "--input", base / "new", "--out", "folder")[0] == 0
    one, other = (
        np.asarray(nibabel.load(path).dataobj)
        for path in (tmp_path / "one/both.nii.gz", tmp_path / f"folder/{case.id}.nii.gz")
    )
    np.testing.assert_array_equal(one, other)
    code, _, err = run("predict", trained, "--input", case.images[0][1], "--out", "two")
    assert (code, "is one volume, the network takes 2 channels (flair, t1c)" in err) == (2, True)


@pytest.mark.parametrize("option", [("--spacing", "2", "2", "2"), ("--overlap", "0.25")])
def test_options_of_networks_of_volumes_are_refused(option, trained, base, run):
    code, _, err = run("segment", trained, "--root", base / "new", *option)
    assert (code, f"{option[0]}: of networks of volumes" in err) == (2, True)


def test_slices_that_were_no_nifti(trained, base, tmp_path):
    network = predict.from_run(trained)
    other = dataclasses.replace(network, task=Slices("lgg", image_size=32))
    with pytest.raises(ValueError, match=r"slices of lgg, whose grey levels"):
        predict.segment_volumes(other, Source(base / "new"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
