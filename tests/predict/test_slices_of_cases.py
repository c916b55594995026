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
from tests.cli.test_verbs import run as run  # the fixture

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


def test_slices_that_were_no_nifti(trained, base, tmp_path, caplog):
    """Networks of LGG's slices: refused, until someone says which volume is which channel."""
    network = predict.from_run(trained)
    other = dataclasses.replace(network, task=Slices("lgg", image_size=32))
    source = Source(base / "new")
    with pytest.raises(ValueError, match=r"slices of lgg, .* such as --modalities flair t1c"):
        predict.segment_volumes(other, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (own,) = predict.segment_volumes(network, source, tmp_path / "own")
    for name, changes in (
        ("modalities", {"modalities": MODALITIES}),
        ("patterns", {"patterns": {"T1CE": "*t1c*", "FLAIR": "*t2f*"}}),  # in any order
        ("both", {"patterns": {"a": "*t1c*", "b": "*t2f*"}, "modalities": ("b", "a")}),
    ):
        way = predict.reading_of(other, **changes)
        (found,) = predict.segment_volumes(other, source, tmp_path / name, reading=way)
        assert found.volumes == own.volumes
    assert "was trained on slices of lgg; volumes become grey levels" in caplog.text
    assert predict.reading_of(other, modalities=MODALITIES).regions == ("whole_tumour",)
    labels = {"patterns": {"flair": "x", "t1c": "y"}, "label": "z", "labels": "lesion=1"}
    assert predict.reading_of(other, **labels).regions == ("lesion",)
    with pytest.raises(ValueError, match="--modalities"):
        predict.reading_of(other, patterns={"flair": "x", "adc": "y"})
    (case,) = nifti.find_cases(base / "new")
    one = Source(case.image("flair")[0])
    way = predict.reading_of(other, modalities=MODALITIES)
    with pytest.raises(ValueError, match=r"is one volume, the network takes 2 channels \(flair"):
        predict.segment_volumes(other, one, tmp_path / "out", reading=way)


def test_files_of_other_names(trained, base, tmp_path, run):
    """By the command: the new folder's patterns in place of the run's layout."""
    (case,) = nifti.find_cases(base / "new")
    for name in MODALITIES:
        (tmp_path / "mine/P1").mkdir(parents=True, exist_ok=True)
        shutil.copy(case.image(name)[0], tmp_path / f"mine/P1/{name.upper()}_x.nii.gz")
    (tmp_path / "png").mkdir()
    patterns = ("--patterns", "t1c", "T1C*.nii.gz", "flair", "FLAIR*.nii.gz")
    assert run("predict", trained, "--input", "mine", "--out", "a", *patterns)[0] == 0
    assert run("predict", trained, "--input", base / "new", "--out", "b")[0] == 0
    one, other = (
        np.asarray(nibabel.load(tmp_path / path).dataobj)
        for path in ("a/P1.nii.gz", f"b/{case.id}.nii.gz")
    )
    np.testing.assert_array_equal(one > 0, other > 0)
    for arguments, says in (
        (("--input", "mine"), "No cases in mine"),
        (("--input", "mine", *patterns, "--layout", "msd"), "exclude each other"),
        (("--input", "mine/P1/FLAIR_x.nii.gz", *patterns), "--patterns: of folders"),
        (("--input", "png", *patterns), "--patterns: of NIfTI cases, png has none"),
        (("--save", "m.safetensors", *patterns), "--patterns: nothing is segmented"),
    ):
        code, _, err = run("predict", trained, "--out", "c", *arguments)
        assert (code, says in err) == (2, True), err


@pytest.mark.parametrize("names", [("Patient1", "patient1"), ("MÜ1", "mü1"), ("a", "A")])
def test_results_of_two_cases_are_two_files_everywhere(names, trained, base, tmp_path):
    (case,) = nifti.find_cases(base / "new")
    for name in names:
        for modality in MODALITIES:
            (tmp_path / "new" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(case.image(modality)[0], tmp_path / f"new/{name}/{modality}.nii.gz")
    network = predict.from_run(trained)
    way = predict.reading_of(network, patterns={"flair": "flair*", "t1c": "t1c*"})
    with pytest.raises(ValueError, match=r"would have one result"):
        predict.segment_volumes(network, Source(tmp_path / "new"), tmp_path / "out", reading=way)
    assert not (tmp_path / "out").exists()
