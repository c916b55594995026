"""Scans of one patient have one patient: by names, by a pattern, and by images that come twice."""

import dataclasses
import gzip
import logging
import os
import shutil

import numpy as np
import pytest

from fp4jax import data
from fp4jax.data import nifti, patients, regrouping
from fp4jax.data.nifti.persons import joined
from fp4jax.train import Slices, Source, Volumes
from tests.brains import brats, label, volume, write

pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")


def grouped(*places, pattern=None):
    scans = [patients.Scan(place.split("/")[-1], place) for place in places]
    return [patient.id for patient in patients.group(scans, pattern)]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        # subjects and sessions of BIDS, in sites and derivatives as well
        (("sub-00/ses-01/anat", "sub-00/ses-02/anat", "sub-01/anat"), ["sub-00"] * 2 + ["sub-01"]),
        (("sub-0_ses-M00", "sub-0_ses-M12", "sub-1_ses-M00"), ["sub-0", "sub-0", "sub-1"]),
        (("A/sub-1/ses-1", "B/sub-1/ses-1", "A/sub-1"), ["A_sub-1", "B_sub-1", "A_sub-1"]),
        (("derivatives/x/sub-1/ses-1", "sub-1/ses-2"), ["sub-1", "sub-1"]),
        # dates and time points, as folders below and above, and at the end of names
        (("P0/2019-01-11", "P0/20190711", "P1/2019-01-11"), ["P0", "P0", "P1"]),
        (("2019-01-11/P0", "11.02.2020/P0"), ["P0", "P0"]),
        (("baseline/P0", "followup/P0", "followup/P1"), ["P0", "P0", "P1"]),
        (("Doe_J/20190111_1530", "Doe_J/20200111", "Roe_J/20190111"), ["Doe_J"] * 2 + ["Roe_J"]),
        (("TCGA-02-0006_1996.08.23", "TCGA-02-0006"), ["TCGA-02-0006"] * 2),
        (("100002_time1", "100002_time2", "100003_time1"), ["100002"] * 2 + ["100003"]),
        (("PatientID_3/Timepoint_1", "PatientID_3/Timepoint_2"), ["PatientID_3"] * 2),
        (("Patient-1/week-000-1", "Patient-1/week-044"), ["Patient-1"] * 2),
        (("UCSF-PDGM-0409", "UCSF-PDGM-0409_FU007d"), ["UCSF-PDGM-0409"] * 2),
        (("OAS1_0001_MR1", "OAS1_0001_MR2"), ["OAS1_0001"] * 2),
        (("patient001_frame01", "patient001_frame12"), ["patient001"] * 2),
        (("7_left", "7_right", "8_left"), ["7", "7", "8"]),
        (("001_preop", "001_postop"), ["001", "001"]),
        # examinations in words, series, dates in front, years above
        (("Doe, J/2018-09-03 MRT", "Doe, J/2019-01-03 CT Kopf"), ["Doe, J", "Doe, J"]),
        (("Doe/MRT 03.09.2018/Serie 1", "Doe/Series_02", "Roe/Serie 1"), ["Doe", "Doe", "Roe"]),
        (("2018-09-03 P001", "20190103_P001", "2018-09-03 Doe"), ["P001", "P001", "Doe"]),
        (("2018/Doe", "2019/Doe", "2019/Roe"), ["Doe", "Doe", "Roe"]),
        (("Klinik A/2018-09-03 Doe", "Klinik A/2018-09-03 Roe"), ["Doe", "Roe"]),
        (
            ("A/2001", "A/2002", "B/brain_01", "B/brain_02"),
            ["2001", "2002", "brain_01", "brain_02"],
        ),
        (("2018-09-03 MRT", "2018-09-04 MRT"), None),
        # a folder in a patient's folder is a scan
        (("P001/abc", "P001/xyz", "P002/abc"), ["P001", "P001", "P002"]),
        (("train/P1", "test/P1"), ["P1", "P1"]),
        # numbers and letters after an id that several have
        (("U-00001_11", "U-00001_21", "U-00002_11"), ["U-00001", "U-00001", "U-00002"]),
        (("R-0001/R-0001-0", "R-0001/R-0001-1", "R-0002/R-0002-0"), ["R-0001"] * 2 + ["R-0002"]),
        (("ABC-00001-000", "ABC-00001-001", "ABC-00002-000"), ["ABC-00001"] * 2 + ["ABC-00002"]),
        (("training01_01", "training01_02", "training02_01"), ["training01"] * 2 + ["training02"]),
        (("0998a", "0998b", "1001a"), ["0998", "0998", "1001"]),
        (("g_0800", "g_0801", "g_0802", "g_0900", "g_0901"), ["g_08"] * 3 + ["g_09"] * 2),
        (("BraTS-MET-00008-100", "BraTS-MET-00008-101"), ["BraTS-MET-00008"] * 2),
        (("BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0001-2"), ["BraTS-MEN-RT-0001"] * 2),
        # each its own
        (("BRATS_001", "BRATS_002"), ["BRATS_001", "BRATS_002"]),
        (("BraTS20_Training_001", "BraTS20_Training_002"), None),
        (("BraTS2021_00000", "BraTS2021_00003"), None),
        (("site1/p1", "site2/p1", "site2/p2"), ["site1_p1", "site2_p1", "p2"]),
        (("1", "2", "10"), None),
        (("s0001", "s0002", "s0103"), None),
        (("IXI002-Guys-0828", "IXI012-HH-1211"), None),
        (("19283746", "20190111"), None),
        (("2019-01-11", "2019-01-12", "2019-02-11"), None),
        (("study_001/scan", "study_002/scan"), ["study_001", "study_002"]),
        (("case1", "case2"), None),
    ],
)
def test_names(places, expected):
    assert grouped(*places) == (expected or list(places))


def test_pattern():
    places = ("site/AB12x", "site/AB12y", "site/CD34x")
    assert grouped(*places, pattern="([A-Z]{2}[0-9]{2})") == ["AB12", "AB12", "CD34"]
    assert grouped(*places, pattern="(?P<site>s)ite/(?P<patient>..)") == ["AB", "AB", "CD"]
    assert grouped(*places, pattern="[A-Z]+") == ["AB", "AB", "CD"]
    with pytest.raises(ValueError, match=r"AB12x .site/AB12x., AB12y .*no patient"):
        grouped(*places, pattern="(C.)")
    for make in (Slices, Volumes):
        with pytest.raises(ValueError, match=r"patient_pattern is '\(', which is no regular"):
            make(patient_pattern="(")


def test_splits_and_dry_run_know_persons(tmp_path):
    brats(tmp_path, [f"X{i // 2:03d}q{i % 2}" for i in range(12)])
    source = Source(root=tmp_path, cache=tmp_path / "cache")
    assert len(Volumes().open(source).patients) == 12
    task = Volumes(patient_pattern=r"(X\d+)")
    opened = task.open(source)
    assert opened.patients == tuple(f"X{i:03d}" for i in range(6))
    text = "\n".join(opened.describe())
    assert "6 patients, 12 scans" in text
    assert "X000: X000q0, X000q1" in text
    cohort = data.load("brats", tmp_path, image_size=8, cache=False, patient_pattern=r"(X\d+)")
    assert cohort.patients == opened.patients
    assert cohort.scans["X001"] == ("X001q0", "X001q1")
    found = data.fingerprint(cohort)
    assert (found["patients"], found["scans"]) == (6, 12)
    assert found["several_scans"]["X005"] == ["X005q0", "X005q1"]
    again = data.Cohort.open(cohort.save(tmp_path / "saved"))
    assert again.scans == cohort.scans
    part = cohort.select(["X001"])
    assert part.scans == {"X001": ("X001q0", "X001q1")}


def test_lgg_patients_with_two_dates(tmp_path):
    rng = np.random.default_rng(0)
    for patient in ("TCGA_CS_1_20000101", "TCGA_CS_1_20010101", "TCGA_CS_2_20000101"):
        (tmp_path / patient).mkdir()
        for number in (1, 2):
            path = tmp_path / patient / f"{patient}_{number}"
            image = rng.integers(0, 255, (8, 8, 3), np.uint8)
            tifffile.imwrite(f"{path}.tif", image, photometric="rgb")
            tifffile.imwrite(f"{path}_mask.tif", np.zeros((8, 8), np.uint8))
    cohort = data.load("lgg", tmp_path)
    assert cohort.patients == ("TCGA_CS_1", "TCGA_CS_2_20000101")
    assert cohort.slice_index.tolist() == [1, 2, 4, 5, 1, 2]
    by_site = data.load("lgg", tmp_path, patient_pattern="TCGA_(..)")
    assert by_site.patients == ("CS",)
    tiny = data.load("phantom", patients=2, slices=4, image_size=16, patient_pattern="(p)hantom")
    assert tiny.patients == ("p",)


@pytest.mark.parametrize("how", ["copy", "link", "hard link", "packed again", "unpacked", "folder"])
def test_volumes_that_are_there_twice(tmp_path, how):
    brats(tmp_path, ["BraTS20_Training_001", "BraTS20_Training_002"])
    first, last = tmp_path / "BraTS20_Training_001", tmp_path / "BraTS20_Training_009"
    if how == "folder":
        (tmp_path / "P").mkdir()
        write(tmp_path / "P" / "a" / "f.nii", volume(1))
        write(tmp_path / "P" / "a" / "s.nii", label((1,)))
        (tmp_path / "P" / "z").symlink_to(tmp_path / "P" / "a")
        options = {"patterns": {"flair": "f.nii"}, "label": "s.nii", "labels": "lesion=1"}
        with pytest.warns(UserWarning, match="under several names: a = z. They"):
            opened = Volumes(**options).open(Source(root=tmp_path / "P"))
        assert opened.patients == ("a",)
        return
    last.mkdir()
    for path in first.iterdir():
        other = last / path.name.replace("001", "009")
        if how == "link":
            other.symlink_to(path)
        elif how == "hard link":
            os.link(path, other)
        elif how == "copy":
            shutil.copy(path, other)
        elif how == "packed again":
            other.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
        else:
            other.with_name(other.name[:-3]).write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.warns(UserWarning, match="BraTS20_Training_001 = BraTS20_Training_009"):
        opened = Volumes().open(Source(root=tmp_path))
    assert opened.patients == ("BraTS20_Training_001", "BraTS20_Training_002")
    assert len(opened.volumes) == 3
    with pytest.warns(UserWarning, match="BraTS20_Training_001 = BraTS20_Training_009"):
        cohort = data.load("brats", tmp_path, image_size=8, cache=False)
    assert len(cohort.patients) == 2


def test_slices_that_are_there_twice():
    cohort = data.load("phantom", patients=3, slices=4, image_size=16)
    ids = np.array([*cohort.patient_ids, *["copy"] * 4])
    twice = data.Cohort(
        np.concatenate([cohort.images, cohort.images[:4]]),
        np.concatenate([cohort.masks, np.zeros_like(cohort.masks[:4])]),
        ids,
        np.array([*cohort.slice_index, *cohort.slice_index[:4]], np.int32),
        "twice",
        cohort.channels,
    )
    with pytest.warns(UserWarning, match="copy = phantom_0000. They are kept together"):
        found = Slices(image_size=16).bind(twice)
    assert len(found.patients) == 3
    assert found.cohort.scans["copy"] == ("copy", "phantom_0000")
    assert "3 patients, 4 scans" in found.describe()[0]
    assert regrouping.joined(cohort) is cohort


def test_partly_labelled(tmp_path, caplog):
    brats(tmp_path, ["BraTS20_Training_001", "BraTS20_Training_002"])
    brats(tmp_path, ["BraTS20_Training_003"], seg=False)
    with caplog.at_level(logging.WARNING):
        opened = Volumes().open(Source(root=tmp_path))
    assert "1 of 3 cases have no label map: BraTS20_Training_003" in caplog.text
    assert len(opened.patients) == 2
    assert "1 scans without a label map are left out" in opened.describe()
    assert len(nifti.find_cases(tmp_path)) == 3


def test_one_file_of_two_patients(tmp_path):
    brats(tmp_path, ["BraTS20_Training_001"])
    (case,) = nifti.find_cases(tmp_path)
    other = dataclasses.replace(case, id="other", person=patients.Patient("other"))
    with pytest.warns(UserWarning, match="BraTS20_Training_001 = other"):
        found = joined([case, other])
    assert {one.patient for one in found} == {"BraTS20_Training_001"}
