"""BraTS of every year and what is named like it: found, its labels understood, gaps named."""

import shutil

import numpy as np
import pytest

from fp4jax.data.nifti import VolumeSet, find_cases, to_regions
from fp4jax.train import Slices, Source, Volumes
from tests.brains import brats, label, ras, volume, write
from tests.data.reading import find_and_load, loaded, refused, z_scores

pytest.importorskip("nibabel")


@pytest.mark.parametrize(
    ("style", "values", "layout"),
    [
        ("brats2020", (2, 1, 4), "brats2020"),
        ("brats2020", (2, 1, 3), "brats2023"),
        ("brats2023", (2, 1, 3), "brats2023"),
    ],
)
def test_which_label_is_enhancing(tmp_path, style, values, layout):
    """Named as in one year and labelled as in another: found from the first files that tell."""
    ids = [f"BraTS20_Training_{i:03d}" for i in range(3)]
    brats(tmp_path, ids, style, values)
    suffix = "_seg" if style == "brats2020" else "-seg"
    write(tmp_path / ids[0] / f"{ids[0]}{suffix}.nii.gz", label(values[:2]))
    cases = find_cases(tmp_path)
    assert {case.layout for case in cases} == {layout}
    loaded_all = VolumeSet(cases, cache=False)
    assert [loaded_all.load(i).target[..., 2].sum() for i in range(3)] == [0, 12, 12]
    for given in (layout, "whole_tumour=1,2,3,4 tumour_core=1,3,4 enhancing=3,4"):
        task = Volumes(labels=given)
        assert task.open(Source(root=tmp_path)).volumes.load(1).target[..., 2].sum() == 12
    assert find_and_load(tmp_path, layout=layout)[0][0].layout == layout


@pytest.mark.parametrize(
    ("cases", "suffixes", "patients"),
    [
        (
            ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "UPENN-GBM-00002_11"),
            "_FLAIR _T1 _T1GD _T2 _segm",
            2,
        ),
        (("UCSF-PDGM-0004", "UCSF-PDGM-0005"), "_FLAIR _T1 _T1c _T2 _tumor_segmentation", 2),
        (
            ("PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"),
            "_brain_t2f _brain_t1n _brain_t1c _brain_t2w _tumorMask",
            1,
        ),
        (
            ("TCGA-02-0006_1996.08.23", "TCGA-02-0009_1997.06.14"),
            "_flair _t1 _t1Gd _t2 _GlistrBoost_ManuallyCorrected",
            2,
        ),
    ],
)
def test_gliomas_of_tcia(tmp_path, cases, suffixes, patients):
    for i, case in enumerate(cases):
        for m, suffix in enumerate(suffixes.split()):
            content = label((2, 1, 4)) if m == 4 else volume((i, m))
            write(tmp_path / f"{case}_nifti" / f"{case}{suffix}.nii.gz", content)
        write(tmp_path / f"{case}_nifti" / f"{case}_brain_segmentation.nii.gz", label((1,)))
    found, one = find_and_load(tmp_path)
    assert [case.id for case in found] == list(cases)
    assert len({case.patient for case in found}) == patients
    assert one.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]


def test_advice_on_labels_works(tmp_path):
    brats(tmp_path, ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"), "brats2023", (2, 1, 4))
    with pytest.raises(ValueError, match="label values 4") as error:
        find_and_load(tmp_path)
    advised = str(error.value).split("--labels '")[1].split("'")[0]
    VolumeSet(find_cases(tmp_path, labels=advised), cache=False).load(0)
    cohort = Slices("brats", image_size=8, labels="brats2020", target="enhancing")
    assert cohort.open(Source(root=tmp_path)).cohort.positive.any()
    brats(tmp_path / "p", ("BraTS-PED-00001-000",), "brats2023", (2, 1, 4))
    with pytest.raises(ValueError, match="--labels"):
        find_cases(tmp_path / "p")
    assert find_cases(tmp_path / "p", labels="lesion=1,2,4")


@pytest.mark.parametrize(
    ("folder", "ids", "suffixes", "layout", "values"),
    [
        ("TrainingData", ("BraTS20_Training_001", "BraTS20_Training_002"), "brats2020", None, 4),
        ("any", ("BraTS2021_00000", "BraTS2021_00003"), "brats2020", "brats2021", 4),
        ("BraTS2023-GLI", ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001"), "brats2023", None, 3),
        ("BraTS2024-GLI", ("BraTS-GLI-00008-100", "BraTS-MEN-00009-000"), "brats2023", None, 3),
    ],
)
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_brats(tmp_path, folder, ids, suffixes, layout, values, end):
    layout = layout or {"T": "brats2020", "B": folder[:9].lower()}[folder[0]]
    content = brats(tmp_path / folder / "Train", ids, suffixes, (2, 1, values), end=end)
    brats(tmp_path / folder / "Validation", (f"{ids[1][:-1]}9",), suffixes, seg=False)
    cases = find_cases(tmp_path / folder)
    assert [case.layout for case in cases] == [layout] * 2 + [cases[-1].layout]
    assert [case.id for case in cases if case.label] == list(ids)
    assert cases[0].modalities == ("flair", "t1", "t1c", "t2")
    assert find_cases(tmp_path / folder / "Train", layout) == cases[:2]
    images, labels = content[ids[0]]
    case = loaded(cases, ("t1gd", "t2f"))  # any year's names
    expected = np.stack([z_scores(ras(images[..., m])) for m in (2, 0)], axis=-1)
    np.testing.assert_allclose(case.image, expected, rtol=1e-3, atol=1e-4)
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.target, to_regions(ras(labels), layout))
    assert case.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    assert loaded(cases[-1:]).target is None
    if "2024" in layout:
        four = VolumeSet(cases[:2], regions=("resection_cavity", "enhancing"), cache=False)
        assert four.load(1).target.sum() == 12
    assert len({case.patient for case in cases[:2]}) == (1 if "2023" in layout else 2)


def test_case_355_of_2020(tmp_path, caplog):
    brats(tmp_path, ("BraTS20_Training_354", "BraTS20_Training_355"))
    folder = tmp_path / "BraTS20_Training_355"
    renamed = folder / "W39_1998.09.19_Segm.nii.gz"
    (folder / "BraTS20_Training_355_seg.nii.gz").rename(renamed)
    (tmp_path / "name_mapping.csv").write_text("Grade\n")
    assert find_cases(tmp_path)[1].label == renamed
    renamed.unlink()
    assert [case.label is None for case in find_cases(tmp_path)] == [False, True]
    assert "1 of 2 cases have no label map: BraTS20_Training_355" in caplog.text


def test_directories_named_nii(tmp_path):
    brats(tmp_path, ("BraTS20_Training_001",), end=".nii")
    flair = tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_flair.nii"
    before = loaded(find_cases(tmp_path)).image
    flair.rename(tmp_path / "kept.nii")
    flair.mkdir()
    (tmp_path / "kept.nii").rename(flair / "W39.nii")
    np.testing.assert_array_equal(loaded(find_cases(tmp_path)).image, before)


def test_missing_and_double_files(tmp_path):
    ids = ("BraTS20_Training_001", "BraTS20_Training_002")
    brats(tmp_path / "a", ids)
    flair = tmp_path / "a" / ids[1] / f"{ids[1]}_flair.nii.gz"
    flair.unlink()
    refused(
        lambda: find_cases(tmp_path),
        "1 problem",
        f"{ids[1]}: modality flair is missing, {str(flair)[:-3]}",
        "--modalities flair t1c",
    )
    cases = find_cases(tmp_path, modalities=("t1", "t1ce"))
    assert cases[1].modalities == ("t1", "t1c")
    refused(lambda: VolumeSet(cases, ("flair",)), ids[0], "'flair'", "t1, t1c")
    shutil.copytree(tmp_path / "a" / ids[0], tmp_path / "b" / ids[0])
    refused(lambda: find_cases(tmp_path, modalities=("t1",)), f"{ids[0]}: is there twice")
    shutil.rmtree(tmp_path / "b")
    for folder in ("", "BraTS-PED-00001-000"):
        brats(tmp_path / "p" / folder, ("BraTS-PED-00001-000",), "brats2023", seg=not folder)
    refused(lambda: find_cases(tmp_path / "p"), "paediatric", "--patterns, --label")
