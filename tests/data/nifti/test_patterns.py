"""Folders of any layout, by patterns of names and paths."""

import numpy as np
import pytest

from fp4jax.data.nifti import VolumeSet, find_cases
from fp4jax.train import Slices, Source, Volumes
from tests.brains import label, ras, volume, write
from tests.data.reading import find_and_load, loaded, refused, z_scores

pytest.importorskip("nibabel")


def test_masks_of_another_value(tmp_path):
    write(tmp_path / "P1/f.nii", volume(1))
    write(tmp_path / "P1/s.nii", label((255,)))
    options = {"modalities": {"flair": "f.nii"}, "layout": "folder", "label": "s.nii"}
    with pytest.raises(ValueError, match="--labels 'lesion=1,255'"):
        find_and_load(tmp_path, ("lesion",), labels="lesion=1", **options)
    assert (
        find_and_load(tmp_path, ("lesion",), labels="lesion=255", **options)[1].target.sum() == 120
    )


def test_own_patterns_for_slices(tmp_path):
    for i in range(3):
        write(tmp_path / f"P{i}/Flair_1.nii.gz", volume((i, 0)))
        write(tmp_path / f"P{i}/T1_1.NII.GZ", volume((i, 1)))
        write(tmp_path / f"P{i}/truth.nii.gz", label((1,)))
    patterns = {"flair": "flair*.nii.gz", "t1": "T1*.nii.gz"}  # case of letters does not count
    options = {"patterns": patterns, "label": "truth*", "labels": "lesion=1"}
    slices = Slices("brats", image_size=8, target="lesion", **options)
    assert slices.open(Source(root=tmp_path)).channels == ("flair", "t1")
    one = Slices("brats", image_size=8, target="lesion", modalities=("t1",), **options)
    assert one.open(Source(root=tmp_path)).channels == ("t1",)
    assert Volumes(**options).open(Source(root=tmp_path)).channels == ("flair", "t1")
    for wrong in ("", "/abs/x.nii", "**/x.nii", "~/x.nii"):
        with pytest.raises(ValueError, match="no file's name or path"):
            find_cases(tmp_path, "folder", modalities={"t1": wrong})
    with pytest.raises(ValueError, match=r"no file matches z\*; there are P0/Flair_1.nii.gz"):
        find_cases(tmp_path, "folder", modalities={"t1": "z*"})
    with pytest.raises(ValueError, match="--data brats"):
        Slices("msd", **options)
    with pytest.raises(ValueError, match="--patterns"):
        Slices("brats", label="truth*")


def test_folders_by_pattern(tmp_path, caplog):
    image, mask = volume(5), volume(5) > 0
    for case in ("site1/p1", "site2/p1", "site2/p2"):
        for name in ("Flair_x.nii.gz", "T1c_x.nii.gz"):
            write(tmp_path / case / name, np.where(mask, image, -3.5).astype(np.float32))
        write(tmp_path / case / "truth.nii.gz", label((2, 1, 4)).astype(np.float32))
        write(tmp_path / case / "mask.nii.gz", mask * 0.99999997)
    options = {
        "layout": "folder",
        "modalities": {"flair": "Flair*.nii.gz", "T1ce": "T1c*.nii.gz"},
        "label": "truth*",
        "labels": "brats2013",
    }
    cases = find_cases(tmp_path, **options)
    assert [case.id for case in cases] == ["p2", "site1_p1", "site2_p1"]
    assert cases[0].modalities == ("flair", "t1c")
    # With a brain mask, and without: the value of the corners is the background.
    with_mask = find_cases(tmp_path, mask="mask*", **options)
    expected = z_scores(ras(image))
    for case in (loaded(cases), loaded(with_mask)):
        np.testing.assert_allclose(case.image[..., 1], expected, rtol=1e-3, atol=1e-4)
        assert case.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "p9").symlink_to(tmp_path / "site2" / "p2")
    assert [case.id for case in find_cases(tmp_path / "linked", **options)] == ["p9"]
    (tmp_path / "linked" / "p9").unlink()
    (one,) = find_cases(tmp_path / "site1" / "p1", **options)
    assert one.id == "p1"
    (tmp_path / "site2" / "p2" / "truth.nii.gz").unlink()
    assert [case.id for case in find_cases(tmp_path, **options) if case.label is None] == ["p2"]
    assert "1 of 3 cases have no label map truth*: p2" in caplog.text
    write(tmp_path / "site1" / "p1" / "Flair_old.nii.gz", image)
    (tmp_path / "site2" / "p2" / "T1c_x.nii.gz").unlink()
    refused(
        lambda: find_cases(tmp_path, **options),
        "2 problems",
        "modality flair is there 2 times, Flair_old.nii.gz, Flair_x.nii.gz",
        "p2: modality t1c is missing, no file T1c*",
    )


def test_paths_by_pattern(tmp_path):
    for case in ("a_1", "b_2"):
        write(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", volume(1))
        write(tmp_path / "imagesTr" / f"{case}_0001.nii.gz", volume(2))
        write(tmp_path / "labelsTr" / f"{case}.nii.gz", label((7,)))
    cases = find_cases(
        tmp_path,
        "folder",
        modalities={"flair": "imagesTr/{id}_0000.nii*", "t2": "imagesTr/{id}_0001.nii*"},
        label="labelsTr/{id}.nii.gz",
        labels={"lesion": {7}},
    )
    assert [case.id for case in cases] == ["a_1", "b_2"]
    assert loaded(cases, ("t2",), regions=("lesion",)).target.sum() == 120
    refused(lambda: VolumeSet(cases), "whole_tumour", "lesion")
