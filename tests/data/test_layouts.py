"""Folders of hospitals and challenges: read rightly, or refused with advice that works."""

import gzip
import json
import logging
import os
import shutil
import unicodedata

import numpy as np
import pytest

from fp4jax import data
from fp4jax.data import folders, nifti
from fp4jax.train import Slices, Source, Volumes
from tests.brains import LPS, SHAPE, brats, label, ras, volume, write

nibabel = pytest.importorskip("nibabel")


def loaded(root, regions=nifti.REGIONS, **options):
    cases = nifti.find_cases(root, **options)
    cases = [case for case in cases if case.label is not None]
    return cases, nifti.VolumeSet(cases, regions=regions, cache=False).load(0)


# ------------------------------------------------------------------------------------------ nnU-Net


def nnunet(root, ids, *, version=2, end=".nii.gz", names=("FLAIR", "T1"), labels=None, **changes):
    for i, case in enumerate(ids):
        for channel in range(len(names)):
            write(root / "imagesTr" / f"{case}_{channel:04d}{end}", volume((i, channel)))
        write(root / "labelsTr" / f"{case}{end}", label((2, 1, 3)))
    named = {str(i): name for i, name in enumerate(names)}
    if version == 2:
        labels = labels or {"background": 0, "edema": 2, "non-enhancing": 1, "enhancing": 3}
        record = {"channel_names": named, "file_ending": end, "numTraining": len(ids)}
    else:
        labels = labels or {"0": "background", "1": "NCR", "2": "edema", "3": "enhancing"}
        training = [
            {"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ids
        ]
        record = {"modality": named, "training": training, "test": []}
    root.joinpath("dataset.json").write_text(json.dumps({**record, "labels": labels, **changes}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("end", [".nii.gz", ".nii"])
def test_nnunet(tmp_path, version, end):
    root = tmp_path / "nnUNet_raw" / "Dataset001_Brain"
    nnunet(root, ("BRATS_001", "BRATS_002"), version=version, end=end)
    write(root / "imagesTs" / f"BRATS_009_0000{end}", volume(1))
    write(root / "imagesTs" / f"BRATS_009_0001{end}", volume(2))
    (root / "imagesTr" / "._BRATS_001_0000.nii.gz").write_bytes(b"x")
    for where in (root, root.parent):
        cases, one = loaded(where)
        assert [case.id for case in nifti.find_cases(where)][-1] == "BRATS_009"
        assert [case.layout for case in cases] == ["nnunet"] * 2
        assert cases[0].modalities == ("flair", "t1")
        np.testing.assert_array_equal(one.reference.data, ras(volume((0, 0))))
        assert one.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    assert loaded(root, modalities=("t1",))[0][0].modalities == ("t1",)
    slices = data.load("brats", root, image_size=8, cache=False)
    assert slices.channels == ("flair", "t1")
    (root / "imagesTr" / f"BRATS_002_0001{end}").unlink()
    with pytest.raises(ValueError, match=rf"BRATS_002: modality t1 is missing, .*_0001{end}"):
        nifti.find_cases(root)


@pytest.mark.parametrize(
    ("labels", "regions"),
    [
        ({"whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": [3]}, nifti.REGIONS),
        ({"0": "background", "1": "a", "2": "b", "3": "c"}, ("foreground", "a", "b", "c")),
        ({"background": 0, "a": 1, "b": [2, 3], "ignore": 4}, ("a", "b")),
    ],
)
def test_labels_of_nnunet(tmp_path, labels, regions):
    nnunet(tmp_path, ("a", "b"), labels=labels)
    cases, one = loaded(tmp_path, regions=regions)
    assert tuple(cases[0].table) == regions
    assert one.target[..., 0].sum() in (120, 36)


def test_other_forms_of_nnunet(tmp_path, caplog):
    # the list "dataset", no number where there is one channel, a case that nobody labelled
    nnunet(tmp_path / "a", ("x",), labels={"background": 0, "l": [1, 2, 3]})
    record = json.loads((tmp_path / "a/dataset.json").read_text())
    images = ["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz"]
    record["dataset"] = {"renamed": {"images": images, "label": "labelsTr/x.nii.gz"}}
    (tmp_path / "a/dataset.json").write_text(json.dumps(record), encoding="utf-8-sig")
    assert [case.id for case in loaded(tmp_path / "a", regions=("l",))[0]] == ["renamed"]
    write(tmp_path / "b/imagesTr/x.nii.gz", volume(1))
    write(tmp_path / "b/imagesTr/y.nii.gz", volume(2))
    write(tmp_path / "b/labelsTr/x.nii.gz", label((1,)))
    record = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "l": 1}, "numTraining": 5}
    (tmp_path / "b/dataset.json").write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        cases = nifti.find_cases(tmp_path / "b")
    assert [case.label is None for case in cases] == [False, True]
    assert "numTraining is 5, and there are 2" in caplog.text
    # composed and decomposed letters
    nnunet(tmp_path / "c", ("Mu\u0308ller",))
    path = tmp_path / "c/labelsTr/Mu\u0308ller.nii.gz"
    path.rename(path.with_name(unicodedata.normalize("NFC", path.name)))
    assert [case.id for case in loaded(tmp_path / "c")[0]] == ["M\u00fcller"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: text.replace("}", ",}", 1), "cannot be read as JSON"),
        (lambda text: text.replace('".nii.gz"', '".png"'), "files end in '.png'"),
        (lambda text: text.replace('"labels"', '"classes"'), "labels are needed"),
        (lambda text: text.replace('"FLAIR"', '"T1"'), "name each once|t10|modality t10"),
    ],
)
def test_nnunet_refuses(tmp_path, change, text):
    nnunet(tmp_path, ("a",))
    file = tmp_path / "dataset.json"
    file.write_text(change(file.read_text()))
    if "t10" in text:  # two channels of one name are numbered
        assert nifti.find_cases(tmp_path)[0].modalities == ("t10", "t11")
        return
    with pytest.raises(ValueError, match=text):
        nifti.find_cases(tmp_path)


def test_dataset_json_of_something_else(tmp_path):
    brats(tmp_path, ("BraTS20_Training_001",))
    (tmp_path / "dataset.json").write_text('{"title": "mine"}')
    assert len(nifti.find_cases(tmp_path)) == 1


# --------------------------------------------------------------------------------------------- BIDS


def bids(root, sessions, *, where="derivatives/manual", suffix="label-lesion_mask", mask=(1,)):
    for i, session in enumerate(sessions):
        name = "_".join(session)
        folder = "/".join((*session, "anat"))
        for m, image in enumerate(("FLAIR", "T1w", "ce-gd_T1w")):
            write(root / folder / f"{name}_{image}.nii.gz", volume((i, m)))
            (root / folder / f"{name}_{image}.json").write_text("{}")
        write(root / where / folder / f"{name}_{suffix}.nii.gz", label(mask))


@pytest.mark.parametrize("where", ["derivatives/manual", ".", "derivatives"])
def test_bids(tmp_path, where):
    sessions = [(f"sub-{i // 2}", f"ses-{i % 2}") for i in range(4)]
    bids(tmp_path, sessions, where=where)
    write(tmp_path / "sub-0/ses-0/func/sub-0_ses-0_task-rest_bold.nii.gz", volume(1))
    write(tmp_path / "derivatives/x/sub-0/anat/sub-0_desc-brain_mask.nii.gz", label((1,)))
    write(tmp_path / "derivatives/x/sub-0/anat/sub-0_space-MNI_T1w.nii.gz", volume(3))
    cases, one = loaded(tmp_path, regions=("lesion",))
    assert [case.id for case in cases] == ["_".join(session) for session in sessions]
    assert cases[0].modalities == ("flair", "t1", "t1c")
    assert [case.patient for case in cases] == ["sub-0", "sub-0", "sub-1", "sub-1"]
    np.testing.assert_array_equal(one.reference.data, ras(volume((0, 0))))
    assert one.target.sum() == 120


def test_bids_labels(tmp_path):
    bids(tmp_path, [("sub-1",), ("sub-2",)], suffix="dseg", mask=(2, 1, 3))
    with pytest.raises(ValueError, match=r"explained nowhere .*--labels"):
        nifti.find_cases(tmp_path)
    one = loaded(tmp_path, labels="brats2023")[1]
    assert one.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    table = "index\tname\n0\tbackground\n1\tcore\n2\toedema\n3\tenhancing\n"
    (tmp_path / "derivatives/manual/dseg.tsv").write_text(table)
    assert set(loaded(tmp_path, ("core", "oedema"))[0][0].table) >= {"core", "oedema", "foreground"}
    shutil.copy(
        tmp_path / "sub-1/anat/sub-1_FLAIR.nii.gz", tmp_path / "sub-1/anat/sub-1_run-2_FLAIR.nii.gz"
    )
    (tmp_path / "sub-2/anat/sub-2_T1w.nii.gz").unlink()
    with pytest.raises(ValueError, match="2 problems") as error:
        nifti.find_cases(tmp_path)
    assert "modality flair is there 2 times" in str(error.value)
    assert "sub-2: modality t1 is missing" in str(error.value)
    # what the message advises
    (tmp_path / "sub-1/anat/sub-1_run-2_FLAIR.nii.gz").unlink()
    assert len(nifti.find_cases(tmp_path, modalities=("flair", "t1c"))) == 2
    patterns = {"flair": "sub-{id}/anat/sub-{id}_FLAIR.nii.gz"}
    truth = "derivatives/manual/sub-{id}/anat/sub-{id}_dseg.nii*"
    task = Volumes(patterns=patterns, label=truth, labels="whole=1,2,3")
    assert task.open(Source(root=tmp_path)).regions == ("whole",)


# -------------------------------------------------------------------------------------------- BraTS


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
    cases = nifti.find_cases(tmp_path)
    assert {case.layout for case in cases} == {layout}
    loaded_all = nifti.VolumeSet(cases, cache=False)
    assert [loaded_all.load(i).target[..., 2].sum() for i in range(3)] == [0, 12, 12]
    for given in (layout, "whole_tumour=1,2,3,4 tumour_core=1,3,4 enhancing=3,4"):
        task = Volumes(labels=given)
        assert task.open(Source(root=tmp_path)).volumes.load(1).target[..., 2].sum() == 12
    assert loaded(tmp_path, layout=layout)[0][0].layout == layout


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
    found, one = loaded(tmp_path)
    assert [case.id for case in found] == list(cases)
    assert len({case.patient for case in found}) == patients
    assert one.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("../dataset.json", "beside it: give"),
        ("a/IM001.dcm", "dcm2niix"),
        ("Flair.mha", "convert them"),
        ("brats.tar.gz", "unpack them"),
    ],
)
def test_other_files(tmp_path, name, text):
    tmp_path = tmp_path / "inner"
    tmp_path.mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=text):
        nifti.find_cases(tmp_path)


def test_masks_of_another_value(tmp_path):
    write(tmp_path / "P1/f.nii", volume(1))
    write(tmp_path / "P1/s.nii", label((255,)))
    options = {"modalities": {"flair": "f.nii"}, "layout": "folder", "label": "s.nii"}
    with pytest.raises(ValueError, match="--labels 'lesion=1,255'"):
        loaded(tmp_path, ("lesion",), labels="lesion=1", **options)
    assert loaded(tmp_path, ("lesion",), labels="lesion=255", **options)[1].target.sum() == 120


def test_advice_on_labels_works(tmp_path):
    brats(tmp_path, ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"), "brats2023", (2, 1, 4))
    with pytest.raises(ValueError, match="label values 4") as error:
        loaded(tmp_path)
    advised = str(error.value).split("--labels '")[1].split("'")[0]
    nifti.VolumeSet(nifti.find_cases(tmp_path, labels=advised), cache=False).load(0)
    cohort = Slices("brats", image_size=8, labels="brats2020", target="enhancing")
    assert cohort.open(Source(root=tmp_path)).cohort.positive.any()
    brats(tmp_path / "p", ("BraTS-PED-00001-000",), "brats2023", (2, 1, 4))
    with pytest.raises(ValueError, match="--labels"):
        nifti.find_cases(tmp_path / "p")
    assert nifti.find_cases(tmp_path / "p", labels="lesion=1,2,4")


def test_all_problems_at_once(tmp_path):
    brats(tmp_path, [f"BraTS20_Training_{i:03d}" for i in range(4)])
    for i in (1, 3):
        case = f"BraTS20_Training_{i:03d}"
        path = tmp_path / case / f"{case}_t1.nii.gz"
        path.write_bytes(path.read_bytes()[:500])
    volumes = nifti.VolumeSet(nifti.find_cases(tmp_path), cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="2 problems in") as error:
        volumes.prepare()
    assert "Training_001_t1" in str(error.value)
    assert "Training_003_t1" in str(error.value)


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
            nifti.find_cases(tmp_path, "folder", modalities={"t1": wrong})
    with pytest.raises(ValueError, match=r"no file matches z\*; there are P0/Flair_1.nii.gz"):
        nifti.find_cases(tmp_path, "folder", modalities={"t1": "z*"})
    with pytest.raises(ValueError, match="--data brats"):
        Slices("msd", **options)
    with pytest.raises(ValueError, match="--patterns"):
        Slices("brats", label="truth*")


# ------------------------------------------------------------------------ clutter, links and rights


CLUTTER = (
    *("@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"),
    *("__MACOSX", "__pycache__", ".ipynb_checkpoints", ".snapshot", ".Trash-1000", "@Recycle"),
)


@pytest.mark.parametrize("name", CLUTTER)
def test_clutter(tmp_path, caplog, name):
    brats(tmp_path / "d", ("BraTS20_Training_001", "BraTS20_Training_002"))
    before = nifti.find_cases(tmp_path / "d")
    for folder in (tmp_path / "d", tmp_path / "d" / "BraTS20_Training_001"):
        shutil.copytree(tmp_path / "d" / "BraTS20_Training_002", folder / name / "copy")
        for file in ("Thumbs.db", "desktop.ini", ".DS_Store", "._BraTS20_Training_001_t1.nii.gz"):
            (folder / file).write_bytes(b"x")
    with caplog.at_level(logging.INFO, "fp4jax.data"):
        assert nifti.find_cases(tmp_path / "d") == before
    assert name in caplog.text
    assert "skipped, no data" in caplog.text


def test_links_that_lead_back(tmp_path):
    brats(tmp_path / "d", ("BraTS20_Training_001",))
    (tmp_path / "d" / "up").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "BraTS20_Training_001" / "self").symlink_to("self")
    assert len(nifti.find_cases(tmp_path / "d")) == 1
    flair = tmp_path / "d/BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz"
    flair.unlink()
    flair.symlink_to("gone.nii.gz")
    with pytest.raises(ValueError, match=r"is a link to gone\.nii\.gz, which does not exist"):
        loaded(tmp_path / "d")


def test_folders_that_may_not_be_read(tmp_path, monkeypatch):
    brats(tmp_path, ("BraTS20_Training_001", "BraTS20_Training_002"))
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("_002"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"_002 \(Permission denied\): 1 folder cannot be read"):
        nifti.find_cases(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fsencode") or os.name == "nt", reason="names are text there")
def test_names_that_are_no_text(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("the file system takes no such names")
    nibabel.save(nibabel.Nifti1Image(volume(1), LPS), tmp_path / "f.nii")
    os.rename(tmp_path / "f.nii", folder + "/f.nii")
    (case,) = nifti.find_cases(tmp_path, "folder", modalities={"flair": "f.nii"})
    assert (case.id, case.patient) == ("Müller", "Müller")
    nifti.VolumeSet([case], regions=(), cache=tmp_path / "cache").load(0)


# ---------------------------------------------------------------------------- content, units, homes


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII", "A.NII.GZ", "a.Nii.gz"])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_content_not_names(tmp_path, name, times):
    plain = nibabel.Nifti1Image(volume(1), LPS).to_bytes()
    for _ in range(times):
        plain = gzip.compress(plain)
    (tmp_path / name).write_bytes(plain)
    np.testing.assert_array_equal(nifti.read_volume(tmp_path / name).data, ras(volume(1)))
    assert nifti.read_geometry(tmp_path / name).shape == SHAPE


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
        nifti.read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("unit", "edge", "mm"),
    [("mm", 2, 2), ("micron", 2000, 2), ("meter", 0.002, 2), ("meter", 2, 2), ("unknown", 2, 2)],
)
def test_units(tmp_path, unit, edge, mm):
    affine = np.diag([edge, edge, edge, 1])
    path = write(tmp_path / "a.nii", volume(1), affine, lambda i: i.header.set_xyzt_units(unit))
    np.testing.assert_allclose(nifti.read_volume(path).spacing, mm, rtol=1e-6)
    case = nifti.Case("a", "folder", (("t1", path, None),), None)
    one = nifti.VolumeSet([case], regions=(), cache=False).load(0)
    out = nifti.save_prediction(tmp_path / "b.nii", (one.image[..., 0] > 0).astype(np.uint8), one)
    np.testing.assert_array_equal(nibabel.load(out).affine, nibabel.load(path).affine)


def test_home_folders(tmp_path, monkeypatch):
    home = tmp_path / "home"
    brats(home / "d", ("BraTS20_Training_001", "BraTS20_Training_002"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FP4JAX_CACHE", "~/cache")
    monkeypatch.chdir(tmp_path)
    nifti.VolumeSet(nifti.find_cases("~/d")).prepare()
    data.load("brats", "~/d", image_size=8, cache="~/other").save("~/saved")
    assert {path.name for path in home.iterdir()} == {"d", "cache", "other", "saved"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    with pytest.raises(ValueError, match="no home folder ~nobody_of_this_name"):
        nifti.find_cases("~nobody_of_this_name/d")
