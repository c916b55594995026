"""Folders as they are found: clutter, links, rights, names that are no text, home folders."""

import logging
import os
import shutil

import pytest

from fp4jax import data
from fp4jax.data import folders, nifti
from tests.brains import LPS, brats, volume
from tests.data.reading import find_and_load

nibabel = pytest.importorskip("nibabel")

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
        find_and_load(tmp_path / "d")


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
