"""What predict takes: one slice, folders of patients; and what it says of masks that lie beside."""

import csv
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from fp4jax import metrics, predict
from fp4jax.predict import SliceOptions, slice_files
from fp4jax.train import read_trained, train
from tests import blobs
from tests.cli.test_verbs import run as run  # the fixture

COHORT = blobs.cohort()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    (folder,) = train(blobs.config(epochs=3, recipe="full"), COHORT, out)
    return folder.path


@pytest.fixture
def patients(tmp_path):
    """Two patients as in kaggle_3m, masks beside, and what systems leave there."""
    root = tmp_path / "kaggle"
    for i in range(6):
        folder = root / str(COHORT.patient_ids[i])
        folder.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / f"s_{i}.tif", COHORT.images[i], photometric="rgb")
        tifffile.imwrite(folder / f"s_{i}_mask.tif", COHORT.masks[i] * np.uint8(255))
    for clutter in ("@eaDir", ".snapshot"):
        shutil.copytree(root / "p00", root / clutter)
    (root / "p00/._s_0.tif").write_bytes(b"AppleDouble")
    (root / "p01/s_5_mask.tif").unlink()
    return root


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_folders_of_patients_and_dice(trained, patients, tmp_path, run):
    code, out, err = run("predict", trained, "--input", patients, "--out", "masks")
    assert (code, err) == (0, "")
    rows = table(tmp_path / "masks/predictions.csv")
    assert [row["file"] for row in rows] == [f"{COHORT.patient_ids[i]}/s_{i}.tif" for i in range(6)]
    both = total = 0
    for i, row in enumerate(rows):
        mask = tifffile.imread(tmp_path / "masks" / row["file"].replace(".tif", "_mask.tif"))
        p, t = mask > 0, COHORT.masks[i] > 0
        if i == 5:
            assert row["dice"] == row["target_pixels"] == ""
            continue
        either = p.sum() + t.sum()
        expected = 2 * (p & t).sum() / either if either else 1.0
        assert float(row["dice"]) == pytest.approx(expected, abs=1e-6)
        both, total = both + 2 * (p & t).sum(), total + either
    assert f"6 slices, {sum(int(r['lesion_pixels']) > 0 for r in rows)} with lesion" in out
    assert f"Dice {both / total:.3f} of all pixels" in out
    # Repeated, it has nothing to do; with another mask beside, that slice is new.
    assert run("predict", trained, "--input", patients, "--out", "masks") == (0, out, "")
    tifffile.imwrite(patients / "p01/s_5_mask.tif", COHORT.masks[5])
    assert run("predict", trained, "--input", patients, "--out", "masks")[0] == 0
    assert table(tmp_path / "masks/predictions.csv")[5]["dice"]


def test_one_file_and_its_probabilities(trained, patients, tmp_path, run):
    path = patients / "p00/s_1.tif"
    arguments = ("--input", path, "--probabilities", "--min-pixels", "5", "--time")
    code, out, err = run("predict", trained, *arguments)
    assert (code, err) == (0, "")
    assert " ms per 32x32x3 (95 %: " in out
    names = {"made_by.jsonl", "predictions.csv", "s_1_mask.tif", "s_1_probability.tif"}
    assert {p.name for p in (tmp_path / "masks").iterdir()} == names
    p = tifffile.imread(tmp_path / "masks/s_1_probability.tif")
    one = read_trained(trained)
    expected = metrics.probabilities(one.model().logits(COHORT.images[1:2])[0, ..., 0])
    np.testing.assert_array_equal(p, expected)
    assert '"min_pixels": 5' in (tmp_path / "masks/made_by.jsonl").read_text().splitlines()[0]


def test_small_components(trained, patients, tmp_path):
    network = predict.from_run(trained)
    every = predict.segment_slices(network, patients, tmp_path / "a")
    none = predict.segment_slices(network, patients, tmp_path / "b", SliceOptions(min_pixels=999))
    assert sum(row.lesion_pixels for row in every) > 0
    assert sum(row.lesion_pixels for row in none) == 0


def test_masks_that_are_none(trained, patients):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(patients / "p01/s_5_mask.png")
    with pytest.raises(ValueError, match=r"s_5_mask.png: the mask has shape \(8, 8\)"):
        predict.segment_slices(predict.from_run(trained), patients, patients.parent / "out")
    assert not (patients.parent / "out").exists()
    assert slice_files.mask_beside(patients / "p00/s_0.tif") == patients / "p00/s_0_mask.tif"


def test_a_folder_of_both_kinds(trained, patients, run):
    (patients / "p00/flair.nii.gz").write_bytes(b"")
    code, _, err = run("predict", trained, "--input", patients)
    assert (code, "name a folder with one kind" in err) == (2, True)
