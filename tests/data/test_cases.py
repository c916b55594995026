"""NIfTI cases from public reports, each with neighbours; docs/cases.md has the reports."""

import json

import nibabel
import numpy as np
import pytest

from fp4jax import metrics
from fp4jax.data import nifti, patients
from fp4jax.data.nifti.geometry import millilitres
from fp4jax.data.nifti.volume import read_volume
from fp4jax.data.other_files import others
from tests.brains import LPS, label, volume, write

VALUES = label((1, 2, 4))


def load(root, labels="whole=1,2,4 core=1,4 enhancing=4"):
    cases = nifti.find_cases(
        root, "folder", modalities={"flair": "a*"}, label="seg*", labels=labels
    )
    return nifti.VolumeSet(cases, None, tuple(cases[0].table), cache=False).load(0)


def case(root, labels=VALUES, affine=LPS, other=LPS):
    write(root / "P1/a.nii.gz", volume(1).astype(np.int16), affine)
    write(root / "P1/seg.nii.gz", labels, other)
    return root


def scaled(root, values, dtype):
    image = nibabel.Nifti1Image(values.astype(np.float64), LPS)
    image.set_data_dtype(dtype)
    nibabel.save(image, case(root) / "P1/seg.nii.gz")
    return root


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_labels_that_were_saved_as_numbers_of_another_type(dtype, tmp_path):
    """nibabel scales float64 into integers: label 1 of 0 to 4 in uint8 is read as 1.0039."""
    truth = load(case(tmp_path / "own")).target
    root = scaled(tmp_path / "scaled", VALUES, dtype)
    if dtype == np.uint8:
        assert read_volume(root / "P1/seg.nii.gz").step == pytest.approx(4 / 255)
        assert np.abs(np.unique(read_volume(root / "P1/seg.nii.gz").data) - 1).min() > 3e-3
    np.testing.assert_array_equal(load(root).target, truth)


def test_probabilities_are_no_labels_however_they_are_saved(tmp_path):
    p = np.linspace(0, 4, VALUES.size).reshape(VALUES.shape)
    for name, dtype in (("a", np.uint8), ("b", np.int16), ("c", np.float32)):
        with pytest.raises(ValueError, match="are no integers"):
            load(scaled(tmp_path / name, p, dtype))


def test_masks_of_each_region_along_a_fourth_axis(tmp_path):
    """Refused with advice that works."""
    masks = np.stack([VALUES == 1, VALUES == 2], -1).astype(np.uint8)
    with pytest.raises(ValueError, match=r"a label map has three axes.*numpy.arange\(1, 3\)"):
        load(case(tmp_path / "masks", masks))
    advised = (masks * np.arange(1, 3)).max(-1).astype("uint8")
    found = load(case(tmp_path / "advised", advised), "whole=1,2 oedema=2").target
    np.testing.assert_array_equal(found[::-1, ::-1, ..., 1], masks[..., 1])
    assert load(case(tmp_path / "one", VALUES[..., None])).target.any()


def test_numbers_that_are_no_labels():
    for labels in (np.array([[[2**40]]]), np.array([[[2**40]]], np.uint64), [[[-(2**40)]]]):
        with pytest.raises(ValueError, match="labels are integers of at most 32767"):
            nifti.to_regions(np.asarray(labels), "brats2023")


@pytest.mark.parametrize(("moved", "good"), [(3e-4, True), (0.04, True), (0.06, False)])
def test_headers_that_differ_by_rounding(moved, good, tmp_path):
    """In origin and, where it moves the far corner, in an edge or an angle."""
    shift, edge, turn = LPS.copy(), LPS.copy(), LPS.copy()
    shift[0, 3] += moved
    edge[0, 0] -= moved / 13
    turn[1, 2] += moved / 9
    for name, other in (("shift", shift), ("edge", edge), ("turn", turn)):
        root = case(tmp_path / name, other=other)
        if good:
            load(root)
        else:
            with pytest.raises(ValueError, match=r"affines that differ .*Nifti1Image\(other"):
                load(root)


def test_axes_that_are_not_at_right_angles():
    """A tilted gantry: a voxel has less volume than its edges say."""
    sheared = np.diag([1.0, 1, 5, 1])
    sheared[1, 2] = 2.0
    assert millilitres(sheared) == pytest.approx(0.005)
    assert millilitres(LPS) == 0.001
    mask = np.ones((4, 4, 4), bool)
    report = metrics.mask_report(mask, mask, (1.0, 1.0, 29**0.5), voxel=1000 * millilitres(sheared))
    assert report["volume_ml"] == report["target_volume_ml"] == pytest.approx(0.32)


@pytest.mark.parametrize("names", [("Patient1", "patient1"), ("A/P01", "A/p01"), ("MÜ1", "mü1")])
def test_names_that_differ_in_capital_letters(names):
    scans = [patients.Scan(name.split("/")[-1], name) for name in (*names, "P2")]
    found = [patient.id for patient in patients.group(scans)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_dataset_json(encoding, tmp_path):
    write(tmp_path / "imagesTr/c_0000.nii.gz", volume(1).astype(np.int16))
    write(tmp_path / "labelsTr/c.nii.gz", VALUES)
    record = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "Ödem": 1},
        "file_ending": ".nii.gz",
    }
    text = json.dumps(record, ensure_ascii=False)
    (tmp_path / "dataset.json").write_bytes(text.encode(encoding))
    (one,) = nifti.find_cases(tmp_path)
    assert one.table["ödem"] == {1}


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.10008", "DICOMDIR", "x.dcm"])
def test_dicom_by_content(name, tmp_path):
    (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" + b"\2\0")
    assert "DICOM; convert them, for example with dcm2niix" in others([tmp_path / name])
    with pytest.raises(ValueError, match="are DICOM"):
        nifti.find_cases(tmp_path)
    (tmp_path / "notes").write_bytes(b"DICM")
    assert others([tmp_path / "notes"]) == ""
