"""What is no data set, or a wrong one: refused in words that help."""

import pytest

from fp4jax.data.nifti import VolumeSet, find_cases
from tests.brains import brats
from tests.data.reading import refused

pytest.importorskip("nibabel")


def test_dataset_json_of_something_else(tmp_path):
    brats(tmp_path, ("BraTS20_Training_001",))
    (tmp_path / "dataset.json").write_text('{"title": "mine"}')
    assert len(find_cases(tmp_path)) == 1


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
        find_cases(tmp_path)


def test_all_problems_at_once(tmp_path):
    brats(tmp_path, [f"BraTS20_Training_{i:03d}" for i in range(4)])
    for i in (1, 3):
        case = f"BraTS20_Training_{i:03d}"
        path = tmp_path / case / f"{case}_t1.nii.gz"
        path.write_bytes(path.read_bytes()[:500])
    volumes = VolumeSet(find_cases(tmp_path), cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="2 problems in") as error:
        volumes.prepare()
    assert "Training_001_t1" in str(error.value)
    assert "Training_003_t1" in str(error.value)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, ("No cases in", "dataset.json", "_flair.nii.gz", "--patterns flair")),
        ({"layout": "msd"}, ("no dataset.json",)),
        ({"layout": "brats2023"}, ("named as in brats2023",)),
        ({"layout": "brats"}, ("'brats'", "brats2020, brats2021")),
        ({"layout": "folder"}, ("--patterns flair 'Flair*.nii.gz'",)),
        ({"layout": "folder", "modalities": {"t1": "*.nii"}}, ("no file matches *.nii",)),
        ({"layout": "folder", "modalities": {"t1": "*"}, "label": "*"}, ("--labels brats2013",)),
        ({"modalities": {"t1": "*.nii"}}, ("layout='folder'",)),
        ({"label": "*"}, ("belong to layout 'folder'",)),
        ({"modalities": ("t1", "t1n")}, ("name each once",)),
        ({"layout": "folder", "modalities": {"t1": "{id}", "t2": "a"}}, ("in all of them",)),
        ({"layout": "folder", "modalities": {"t1": "a", "T1w": "b"}}, ("name each once",)),
    ],
)
def test_find_cases_refuses(tmp_path, options, texts):
    (tmp_path / "notes.txt").touch()
    refused(lambda: find_cases(tmp_path, **options), *texts)


def test_no_folder(tmp_path):
    refused(lambda: find_cases(tmp_path / "none"), "none is not a folder")
