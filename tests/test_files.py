"""Files and folders are replaced as a whole, or are what they were."""

import os
import stat
import threading
from pathlib import Path

import pytest

from fp4jax.files import finite, read_json, replacing, replacing_folder, write_json


@pytest.fixture
def umask():
    """Sets the umask of the process, and sets it back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, text: str) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(text)


def write_half(path: Path) -> None:
    with path.open("w") as file:
        file.writelines(["half", None])  # type: ignore[list-item]


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_json(tmp_path):
    path = tmp_path / "record.json"
    assert read_json(path) is None
    write_json(path, {"dice": float("nan"), "shape": (2, 3)})
    assert read_json(path) == {"dice": None, "shape": [2, 3]}
    path.write_text("{")
    with pytest.raises(ValueError, match=r"record\.json is no JSON"):
        read_json(path)


def test_finite_keeps_all_but_floats_that_json_lacks():
    assert finite([1, "x", True, None, float("-inf")]) == [1, "x", True, None, None]


def test_file_is_replaced(tmp_path):
    path = tmp_path / "image.png"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["image.png"]


@pytest.mark.parametrize("before", ["old", None])
def test_failing_block_leaves_the_file(tmp_path, before):
    path = tmp_path / "scores.csv"
    if before is not None:
        path.write_text(before)
    with pytest.raises(TypeError), replacing(path) as temporary:
        write_half(temporary)
    assert names(tmp_path) == (["scores.csv"] if before else [])
    assert not before or path.read_text() == before


def test_no_folder_is_made_for_a_file(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "absent" / "file"):
        pytest.fail("the block runs although nothing can be written")


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_permissions_follow_the_umask(tmp_path, umask, mask, file, folder):
    umask(mask)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("x")
    with replacing_folder(tmp_path / "folder") as temporary:
        fill(temporary, "x")
    assert permissions(tmp_path / "file") == file
    assert permissions(tmp_path / "folder") == folder


@pytest.mark.parametrize("keep", [False, True])
def test_folder_appears_complete(tmp_path, keep):
    path = tmp_path / "deep" / "entry"
    with replacing_folder(path, keep_existing=keep) as temporary:
        fill(temporary, "new")
        assert not path.exists()
    assert names(path) == ["a", "b"]
    assert names(path.parent) == ["entry"]


@pytest.mark.parametrize("keep", [False, True])
def test_empty_folder_is_none(tmp_path, keep):
    (tmp_path / "entry").mkdir()
    with replacing_folder(tmp_path / "entry", keep_existing=keep) as temporary:
        fill(temporary, "new")
    assert names(tmp_path / "entry") == ["a", "b"]


@pytest.mark.parametrize(("keep", "text"), [(False, "new"), (True, "old")])
def test_folder_with_files(tmp_path, keep, text):
    path = tmp_path / "entry"
    path.mkdir()
    (path / "a").write_text("old")
    (path / "only before").touch()
    with replacing_folder(path, keep_existing=keep) as temporary:
        fill(temporary, "new")
    assert (path / "a").read_text() == text
    assert (path / "only before").exists() == keep
    assert names(tmp_path) == ["entry"]


@pytest.mark.parametrize("keep", [False, True])
def test_failing_block_leaves_the_folder(tmp_path, keep):
    path = tmp_path / "entry"
    path.mkdir()
    fill(path, "old")
    with pytest.raises(TypeError), replacing_folder(path, keep_existing=keep) as temporary:
        write_half(temporary / "a")
    assert (path / "a").read_text() == (path / "b").read_text() == "old"
    assert names(tmp_path) == ["entry"]


def test_old_folder_survives_a_failing_rename(tmp_path, monkeypatch):
    path = tmp_path / "entry"
    path.mkdir()
    fill(path, "old")
    rename = Path.replace

    def fail_once_moved_aside(self, target):
        if Path(target) == path and not path.exists() and (self / "a").read_text() == "new":
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_once_moved_aside)
    with pytest.raises(PermissionError), replacing_folder(path) as temporary:
        fill(temporary, "new")
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["entry"]


def test_file_in_place_of_a_folder(tmp_path):
    path = tmp_path / "entry"
    path.write_text("precious")
    with pytest.raises(NotADirectoryError, match="is a file"), replacing_folder(path):
        pytest.fail("the block runs although the folder cannot be made")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("keep", [False, True])
def test_race_for_a_folder(tmp_path, keep):
    """Eight writers of one folder: it is one of theirs, whole, and nothing else is left."""
    path = tmp_path / "entry"
    at_once = threading.Barrier(8)
    errors = []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                with replacing_folder(path, keep_existing=keep) as temporary:
                    fill(temporary, str(number))
                    at_once.wait(timeout=60)
        except Exception as error:  # a thread's error would be lost
            errors.append(error)
            at_once.abort()

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (path / "a").read_text() == (path / "b").read_text()
    assert names(tmp_path) == ["entry"]
