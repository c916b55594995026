"""The LGG loader: real patients, and synthetic folders with every kind of damage."""

import os
import shutil
import subprocess
import sys
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest

from fp4jax import data
from fp4jax.data import lgg
from fp4jax.data.resize import resize_images

tifffile = pytest.importorskip("tifffile")

A, B = "TCGA_AA_1_19990101", "TCGA_BB_2_20000202"


def write(folder, patient, number, image=None, mask=None, seed=0):
    folder = folder / patient
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, number, len(patient)])
    if image is None:
        image = rng.integers(0, 256, (16, 16, 3), np.uint8)
    if mask is None:
        mask = np.where(rng.random((16, 16)) < 0.1, 255, 0).astype(np.uint8)
    paths = folder / f"{patient}_{number}.tif", folder / f"{patient}_{number}_mask.tif"
    for path, array in zip(paths, (image, mask), strict=True):
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    return SimpleNamespace(image=image, mask=mask, image_path=paths[0], mask_path=paths[1])


@pytest.fixture
def folder(tmp_path):
    """Two patients of 11 and 2 slices; the parent's name has "mask" in it."""
    root = tmp_path / "brain_mask_data" / "kaggle_3m"
    for number in range(1, 12):
        write(root, A, number)
    for number in (1, 2):
        write(root, B, number)
    (root / "data.csv").write_text("Patient\n")
    (root / "README.md").write_text("text\n")
    return root


def fails(folder, *messages, **options):
    with pytest.raises(ValueError, match=r"kaggle_3m") as error:
        data.load("lgg", folder, **options)
    for message in messages:
        assert message in str(error.value)
    return str(error.value)


def test_reads(folder):
    cohort = data.load("lgg", folder)
    assert cohort.name == "lgg"
    assert cohort.channels == ("pre-contrast", "FLAIR", "post-contrast")
    assert cohort.patient_ids.tolist() == [A] * 11 + [B] * 2
    assert cohort.slice_index.tolist() == [*range(1, 12), 1, 2]  # numeric, not 1, 10, 11, 2
    for i, patient, number in ((9, A, 10), (12, B, 2)):
        stem = folder / patient / f"{patient}_{number}"
        np.testing.assert_array_equal(cohort.images[i], tifffile.imread(f"{stem}.tif"))
        np.testing.assert_array_equal(cohort.masks[i], tifffile.imread(f"{stem}_mask.tif") > 0)


def test_parent_and_second_copy(folder):
    shutil.copytree(folder, folder.parent / "lgg-mri-segmentation" / "kaggle_3m")
    for root in (folder, folder.parent, folder.parent / "lgg-mri-segmentation", str(folder)):
        assert len(data.load("lgg", root)) == 13
    shutil.copytree(folder, folder / "lgg-mri-segmentation" / "kaggle_3m")
    assert len(data.load("lgg", folder)) == 13
    shutil.rmtree(folder)
    assert len(data.load("lgg", folder.parent)) == 13


def test_macos_files_are_no_slices(folder):
    (folder / A / f"._{A}_1.tif").write_bytes(b"AppleDouble")
    (folder / "__MACOSX").mkdir()
    assert len(data.load("lgg", folder)) == 13


def test_options(folder):
    cohort = data.load("lgg", folder)
    reverse = data.load("lgg", folder, channel_order="ref_bgr")
    np.testing.assert_array_equal(reverse.images, cohort.images[..., ::-1])
    assert reverse.channels == cohort.channels[::-1]
    small = data.load("lgg", folder, image_size=8)
    np.testing.assert_array_equal(small.images, resize_images(cohort.images, (8, 8)))
    np.testing.assert_array_equal(small.masks, cohort.resize(8).masks)
    with pytest.raises(ValueError, match="'bgr'; rgb and ref_bgr"):
        data.load("lgg", folder, channel_order="bgr")
    with pytest.raises(ValueError, match="image_size is 0"):
        data.load("lgg", folder, image_size=0)
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        data.load("lgg", folder, on_error="ignore")


def test_load_refuses(tmp_path):
    with pytest.raises(ValueError, match="no data set 'acdc'; known names: lgg, phantom"):
        data.load("acdc")
    with pytest.raises(ValueError, match="pass root"):
        data.load("lgg")
    with pytest.raises(ValueError, match="leave it out"):
        data.load("phantom", tmp_path)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        data.load("lgg", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="No LGG data"):
        data.load("lgg", tmp_path)


def test_missing_partners(folder):
    (folder / A / f"{A}_3_mask.tif").unlink()
    (folder / B / f"{B}_2.tif").unlink()
    fails(
        folder,
        "2 problems",
        f"{A}_3.tif: its mask is missing",
        f"{B}_2_mask.tif: its image is missing",
        "Unpack the archive again",
        'on_error="skip"',
    )


def test_unknown_names(folder):
    for name in ("overview.tif", f"{A}_x.tif", f"{A}_3_maskold.tif", "mask_4.tif"):
        tifffile.imwrite(folder / A / name, np.zeros((16, 16, 3), np.uint8))
    message = fails(folder, "4 problems")
    for name in ("overview.tif", f"{A}_x.tif", f"{A}_3_maskold.tif", "mask_4.tif"):
        assert f"{A}/{name}: unknown name" in message


def test_slice_twice_or_of_another_patient(folder):
    shutil.copy(folder / A / f"{A}_1.tif", folder / A / f"{A}_01.tif")
    shutil.copy(folder / A / f"{A}_1.tif", folder / B / f"{A}_9.tif")
    fails(folder, "slice 1 occurs more than once", f"{B}/{A}_9.tif: a slice of another patient")


@pytest.mark.parametrize("which", ["image_path", "mask_path"])
@pytest.mark.parametrize("keep", [0, 4, 100, 200])
def test_truncated(folder, which, keep):
    path = getattr(write(folder, A, 5), which)
    path.write_bytes(path.read_bytes()[:keep])
    fails(folder, "1 problem in", f"{A}/{path.name}: cannot be read, truncated")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((8, 16, 3), np.uint8)}, "the image is uint8 (8, 16, 3), not uint8 (16"),
        ({"image": np.zeros((16, 16), np.uint8)}, "the image is uint8 (16, 16)"),
        ({"image": np.zeros((16, 16, 3), np.uint16)}, "the image is uint16"),
        (
            {"image": np.full((16, 16, 3), np.nan, np.float32)},
            "the image is float32 (16, 16, 3) with NaN",
        ),
        ({"mask": np.zeros((8, 8), np.uint8)}, "the mask has shape (8, 8), its slice (16, 16)"),
        ({"mask": np.full((16, 16), np.nan, np.float32)}, "the mask has values that are NaN"),
        ({"mask": np.arange(256, dtype=np.uint8).reshape(16, 16)}, "the mask has 255 values"),
    ],
)
def test_unusable_arrays(folder, changes, message):
    slice_ = write(folder, A, 1, **changes)  # the first that is read: others set the shape
    path = slice_.image_path if "image" in changes else slice_.mask_path
    write(folder, "TCGA_CC_3_20010101", 1)
    fails(folder, "1 problem in", f"{A}/{path.name}: {message}")


def test_patient_without_slices(folder):
    (folder / "TCGA_CC_3_20010101").mkdir()
    fails(folder, "TCGA_CC_3_20010101: a patient without slices")


def test_only_images(folder):
    for path in folder.rglob("*_mask.tif"):
        path.unlink()
    fails(folder, "13 problems", "and 3 more", on_error="skip")


def test_one_message_for_many_problems(folder):
    for path in sorted(folder.rglob("*_mask.tif"))[:12]:
        tifffile.imwrite(path, np.ones((8, 16), np.uint8))
    message = fails(folder, "12 problems", "and 2 more")
    assert message.count("the mask has shape (8, 16)") == 10


def test_masks_of_another_value(folder):
    """1 in place of 255, and colours."""
    whole = data.load("lgg", folder)
    for path in folder.rglob("*_mask.tif"):
        mask = tifffile.imread(path)
        if "_1_" in path.name:
            tifffile.imwrite(path, np.stack([mask] * 3, -1), photometric="rgb")
        else:
            tifffile.imwrite(path, (mask > 0).astype(np.uint8))
    np.testing.assert_array_equal(data.load("lgg", folder).masks, whole.masks)


def test_folders_of_one_name(folder):
    """Written in two ways, as macOS and other systems do; a copy between them makes two."""
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "Müller_1")
        (folder / name).mkdir()
        for path in sorted((folder / A).iterdir()):
            shutil.copy(path, folder / name / path.name.replace(A, name))
    fails(folder, "1 problem in", "Müller_1: 2 folders have this name")


def test_skip(folder):
    whole = data.load("lgg", folder)
    (folder / A / f"{A}_2_mask.tif").write_bytes(b"")
    (folder / A / f"{A}_5.tif").unlink()
    with pytest.warns(UserWarning, match=r"left out. 2 problems"):
        cohort = data.load("lgg", folder, on_error="skip")
    kept = [i for i in range(13) if i not in (1, 4)]
    np.testing.assert_array_equal(cohort.images, whole.images[kept])
    np.testing.assert_array_equal(cohort.masks, whole.masks[kept])
    np.testing.assert_array_equal(cohort.slice_index, whole.slice_index[kept])


def test_real_patients(shared):
    cohort = data.load("lgg", shared / "lgg_sample")
    assert len(cohort.patients) == 12
    rows = np.genfromtxt(
        shared / "reference/lgg_slice_table.csv", str, delimiter=",", skip_header=1
    )
    counts = {case: (int(n), int(k)) for case, n, k, *_ in rows}
    for patient in cohort.patients:
        part = cohort.select([patient])
        assert (len(part), part.positive.sum()) == counts[patient]
    for split in (data.patient_holdout(cohort), *data.patient_kfold(cohort)):
        assert len(split.train + split.val + split.test) == 12


def test_expected_counts_are_those_of_the_reference(shared):
    rows = np.genfromtxt(
        shared / "reference/lgg_slice_table.csv", str, delimiter=",", skip_header=1
    )
    assert lgg.LGG_EXPECTED["patients"] == len(rows)
    assert lgg.LGG_EXPECTED["slices"] == rows[:, 1].astype(int).sum()
    assert lgg.LGG_EXPECTED["positive_slices"] == rows[:, 2].astype(int).sum()


_WHOLE = """
import resource, sys, time
from fp4jax import data
start = time.monotonic()
cohort = data.load("lgg", sys.argv[1])
seconds = time.monotonic() - start
data.verify(cohort, data.LGG_EXPECTED)
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_whole_set():
    root = os.environ.get("FP4JAX_LGG")
    if not root:
        pytest.skip("FP4JAX_LGG, the folder of the whole LGG set, is not set")
    run = subprocess.run(
        [sys.executable, "-c", _WHOLE, root], capture_output=True, text=True, check=True
    )
    seconds, gibibytes = map(float, run.stdout.split())
    assert seconds < 60
    assert gibibytes < 2.2
