"""Image and label map on one grid; another spacing, and back."""

import numpy as np
import pytest

from fp4jax.data.nifti import Case, VolumeSet, save_prediction, to_labels, to_regions
from tests.brains import LPS, label, oblique, ras, volume, write
from tests.data.reading import loaded, refused

nibabel = pytest.importorskip("nibabel")


def pair(tmp_path, image, truth, affine=LPS):
    paths = write(tmp_path / "image.nii", image), write(tmp_path / "truth.nii", truth, affine)
    return [Case("one", "brats2020", (("flair", paths[0], None),), paths[1])]


def test_grids_that_differ(tmp_path):
    image, truth = volume(3), label((2, 1, 4))
    moved = LPS.copy()
    moved[0, 3] += 0.0005  # below the tolerance
    loaded(pair(tmp_path, image, truth, moved))
    # Stored in another order of axes, the same place in space: fine.
    turned = LPS @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    same = loaded(pair(tmp_path, image, np.moveaxis(truth, 0, 2), turned[:, [0, 1, 2, 3]]))
    np.testing.assert_array_equal(same.target, to_regions(ras(truth), "brats2020"))
    moved[0, 3] += 1
    files = tmp_path / "image.nii", tmp_path / "truth.nii"
    for affine, data, text in (
        (moved, truth, "affines that differ by up to 1"),
        (LPS, truth[:-1], "shapes (14, 12, 10) and (13, 12, 10)"),
    ):
        cases = pair(tmp_path, image, data, affine)
        refused(lambda cases=cases: loaded(cases), *files, text, "resample_from_to")
    refused(lambda: loaded(pair(tmp_path, image, truth + 1)), files[1], "3, 5", "0, 1, 2, 4")
    refused(lambda: loaded(pair(tmp_path, image * 0, truth)), files[0], "no contrast")


def test_spacing_and_back(tmp_path):
    """A smooth volume survives two resamplings; grids keep their place in space."""
    affine = oblique((1.0, 1.2, 3.0))
    grid = np.stack(np.meshgrid(*map(np.arange, (20, 18, 9)), indexing="ij"), axis=-1)
    place = grid @ affine[:3, :3].T + affine[:3, 3]
    ramp = (place @ (0.4, -0.3, 1.0)).astype(np.float32)
    image = write(tmp_path / "image.nii", ramp - ramp.min() + 1, affine)
    blob = (((place - place[10, 9, 4]) ** 2).sum(axis=-1) < 36).astype(np.uint8)
    truth = write(tmp_path / "truth.nii", 2 * blob, affine)
    source = Case("one", "brats2020", (("t1", image, None),), truth)
    case = loaded([source], spacing=(1, 1, 1))
    assert case.image.shape[:3] == (20, 22, 27)
    np.testing.assert_allclose(case.spacing, 1)
    # The image is a linear function of the place in mm, here as in the file.
    full = loaded([source])
    assert full.image.shape[:3] == (20, 18, 9)
    new = np.stack(np.meshgrid(*map(np.arange, case.image.shape[:3]), indexing="ij"), axis=-1)
    at = new @ case.affine[:3, :3].T + case.affine[:3, 3]
    expected = ((at @ (0.4, -0.3, 1.0)) - ramp.mean()) / ramp.std()
    inner = (slice(1, -1), slice(1, -1), slice(2, -2))
    np.testing.assert_allclose(case.image[(*inner, 0)], expected[inner], atol=3e-3)
    volumes = case.target[..., 0].sum(), 3.6 * blob.sum()
    assert abs(volumes[0] / volumes[1] - 1) < 0.1
    out = save_prediction(tmp_path / "probability.nii.gz", case.image, case)
    back = nibabel.load(out)
    assert back.shape == (20, 18, 9, 1)
    np.testing.assert_array_equal(back.affine, nibabel.load(image).affine)
    np.testing.assert_allclose(
        np.asanyarray(back.dataobj)[..., 0][inner], full.image[(*inner, 0)], atol=5e-3
    )
    out = save_prediction(tmp_path / "labels.nii.gz", to_labels(case.target, "brats2020"), case)
    agree = np.asanyarray(nibabel.load(out).dataobj) == 2 * blob
    assert agree.mean() > 0.995
    refused(lambda: VolumeSet([source], spacing=(1, 0, 1)), "(1, 0, 1)", "three lengths")
