"""One NIfTI file: known by its content, read in any orientation and unit, refused if damaged."""

import gzip
import itertools
import shutil

import numpy as np
import pytest

from fp4jax.data.nifti import Case, VolumeSet, read_geometry, read_volume, save_prediction
from tests.brains import LPS, SHAPE, oblique, ras, volume, write
from tests.data.reading import loaded, refused

nibabel = pytest.importorskip("nibabel")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII", "A.NII.GZ", "a.Nii.gz"])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_content_not_names(tmp_path, name, times):
    plain = nibabel.Nifti1Image(volume(1), LPS).to_bytes()
    for _ in range(times):
        plain = gzip.compress(plain)
    (tmp_path / name).write_bytes(plain)
    np.testing.assert_array_equal(read_volume(tmp_path / name).data, ras(volume(1)))
    assert read_geometry(tmp_path / name).shape == SHAPE


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--x.nii.gz\n", "git annex get"),
        (b"<!DOCTYPE html>", "download it again"),
        (b"PK\x03\x04zip", "zip archive; unpack it"),
        (b"", "empty file"),
    ],
)
def test_no_nifti_file(tmp_path, content, text):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ValueError, match=text):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("unit", "edge", "mm"),
    [("mm", 2, 2), ("micron", 2000, 2), ("meter", 0.002, 2), ("meter", 2, 2), ("unknown", 2, 2)],
)
def test_units(tmp_path, unit, edge, mm):
    affine = np.diag([edge, edge, edge, 1])
    path = write(tmp_path / "a.nii", volume(1), affine, lambda i: i.header.set_xyzt_units(unit))
    np.testing.assert_allclose(read_volume(path).spacing, mm, rtol=1e-6)
    case = Case("a", "folder", (("t1", path, None),), None)
    one = VolumeSet([case], regions=(), cache=False).load(0)
    out = save_prediction(tmp_path / "b.nii", (one.image[..., 0] > 0).astype(np.uint8), one)
    np.testing.assert_array_equal(nibabel.load(out).affine, nibabel.load(path).affine)


def test_every_orientation(tmp_path):
    """All 48 orders and directions of the axes are read alike, and written back as they were."""
    data, affine = volume(0, (5, 6, 7)), oblique()
    affines = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.array(list(zip(order, signs, strict=True)))
            stored = nibabel.orientations.apply_orientation(data, turn)
            to_stored = affine @ nibabel.orientations.inv_ornt_aff(turn, data.shape)
            path = write(tmp_path / "x.nii", stored, to_stored)
            read = read_volume(path)
            np.testing.assert_array_equal(read.data, data)
            np.testing.assert_allclose(read.affine, affine, atol=1e-4)
            np.testing.assert_allclose(read.spacing, (1, 1.5, 4), atol=1e-4)
            affines.append(read.orientation)
            case = loaded([Case("x", "folder", (("t1", path, None),), None)], ("t1",), regions=())
            out = save_prediction(tmp_path / "y.nii", data.astype(np.uint16), case, overwrite=True)
            written, source = nibabel.load(out), nibabel.load(path)
            np.testing.assert_array_equal(np.asanyarray(written.dataobj), stored)
            np.testing.assert_array_equal(written.affine, source.affine)
    assert len(set(affines)) == 48


def test_directory_and_singleton_axes(tmp_path):
    """Unpacked folders named x.nii, and 3-D volumes stored as 4-D."""
    data = volume(1)
    write(tmp_path / "case_flair.nii" / "00000057_brain.nii", data[..., None])
    (tmp_path / "case_flair.nii" / "._00000057_brain.nii").write_bytes(b"x")
    read = read_volume(tmp_path / "case_flair.nii")
    np.testing.assert_array_equal(read.data, ras(data))
    assert read.path.name == "00000057_brain.nii"
    four = write(tmp_path / "four.nii", np.stack([data, 2 * data], axis=-1))
    np.testing.assert_array_equal(read_volume(four, channels=(1,)).data[..., 0], ras(2 * data))
    scaled = write(tmp_path / "s.nii", data, change=lambda i: i.header.set_slope_inter(2, 1))
    assert read_volume(scaled).data.dtype == np.float32


def damaged(tmp_path):
    """(file, what the message has) of everything that can be wrong with one file."""
    data = volume(2, (30, 30, 20))
    packed, plain = write(tmp_path / "a.nii.gz", data), write(tmp_path / "b.nii", data)
    for path, keep in ((packed, 0.5), (plain, 0.5), (packed, 0.001), (plain, 0.001)):
        cut = tmp_path / f"cut{keep}_{path.name}"
        content = path.read_bytes()
        cut.write_bytes(content[: int(keep * len(content))])
        yield cut, ("truncated", "unpack it again")
    flipped = bytearray(packed.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (tmp_path / "bits.nii.gz").write_bytes(bytes(flipped))
    yield tmp_path / "bits.nii.gz", ("damaged",)
    (tmp_path / "text.nii.gz").write_text("<html>404</html>")
    yield tmp_path / "text.nii.gz", ("not a NIfTI file",)
    (tmp_path / "inner.nii.gz").write_bytes(gzip.compress(b"no image"))
    yield tmp_path / "inner.nii.gz", ("not a NIfTI file",)
    (tmp_path / "empty.nii").touch()
    yield tmp_path / "empty.nii", ("0 bytes",)
    shutil.copy(plain, tmp_path / "scan.mgz")
    yield tmp_path / "scan.mgz", ("convert it",)
    yield tmp_path / "none.nii", ("does not exist",)
    (tmp_path / "many.nii").mkdir()
    for name in ("c.nii", "d.nii"):
        shutil.copy(plain, tmp_path / "many.nii" / name)
    yield tmp_path / "many.nii", ("folder with 2 NIfTI files",)
    yield write(tmp_path / "2d.nii", data[..., 0]), ("(30, 30)", "three axes", "Stack")
    yield write(tmp_path / "4d.nii", np.stack([data, data], -1)), ("(30, 30, 20, 2)", "Split")
    for bad in (np.nan, np.inf):
        wrong = data.copy()
        wrong[3, 4, 5] = bad
        yield write(tmp_path / f"{bad}.nii", wrong), ("1 voxels that are NaN", "nan_to_num")
    yield write(tmp_path / "huge.nii", data.astype(np.float64) * 1e300), ("infinite in float32",)
    yield write(tmp_path / "complex.nii", data.astype(np.complex64)), ("complex64",)

    singular = bytearray(plain.read_bytes())
    singular[312:328] = singular[296:312]  # the last row of the affine as the one before
    (tmp_path / "singular.nii").write_bytes(bytes(singular))
    yield tmp_path / "singular.nii", ("affine", "Repair")


def test_damaged_files(tmp_path):
    for path, texts in damaged(tmp_path):
        refused(lambda path=path: read_volume(path), path, *texts)
