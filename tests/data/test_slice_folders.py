"""Slices in folders of one's own: whose they are, which mask is whose, and what is refused."""

import os

import numpy as np
import pytest

from fp4jax import data
from fp4jax.data.slice_folders import load

Image = pytest.importorskip("PIL.Image")


def write(path, shape=(8, 8, 3), lesion=True, seed=0):
    """A slice, and its mask unless ``lesion`` is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, len(str(path))]).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    if lesion is not None:
        mask = np.zeros(shape[:2], np.uint8)
        mask[:2, :3] = 255 * lesion
        Image.fromarray(mask).save(path.with_name(f"{path.stem}_mask{path.suffix}"))


def clinic(root):
    """Two patients, three scans; what systems and other commands leave beside."""
    for i, place in enumerate(("Müller, Hans/2018-09-03 MRT", "Müller, Hans/2019-01-03 CT Kopf")):
        for number in (1, 2, 10):
            write(root / place / f"IM {number}.png", seed=10 * i + number)
    write(root / "O'Brien/2020-02-02/a.tif", lesion=False)
    write(root / "O'Brien/2020-02-02/b.png", (8, 8), lesion=True)
    for name in ("Thumbs.db", ".DS_Store", "._IM 1.png", "report.txt", "a_overlay.png"):
        (root / "O'Brien/2020-02-02" / name).write_bytes(b"x")
    return root


def test_a_messy_folder(tmp_path):
    cohort = load(clinic(tmp_path), image_size=4)
    assert cohort.patients == ("Müller, Hans", "O'Brien")
    assert {p: len(scans) for p, scans in cohort.scans.items()} == {"Müller, Hans": 2, "O'Brien": 1}
    assert cohort.images.shape == (8, 4, 4, 3)
    own = cohort.patient_ids == "Müller, Hans"
    # Numbers count as numbers, and those of the second scan on from the first.
    assert cohort.slice_index[own].tolist() == [1, 2, 10, 12, 13, 21]
    assert cohort.channels == ("red", "green", "blue")
    assert cohort.positive.tolist() == [True] * 6 + [False, True]
    grey = cohort.images[-1]
    assert (grey == grey[..., :1]).all()
    again = data.load("images", tmp_path, image_size=4)
    assert (again.images == cohort.images).all()


def test_grey_in_colours_is_one_channel(tmp_path):
    write(tmp_path / "P1/1.png", (8, 8))
    pixels = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 3, -1)
    write(tmp_path / "P2/1.png")
    Image.fromarray(pixels).save(tmp_path / "P2/1.png")
    cohort = load(tmp_path)
    assert (cohort.images.shape, cohort.channels) == ((2, 8, 8, 1), ("grey",))
    assert (cohort.images[1] == pixels[..., :1]).all()


def test_patients_in_the_names_of_files(tmp_path):
    for patient in ("A", "B"):
        for number in (1, 2):
            write(tmp_path / f"{patient}_{number}.png", seed=number)
    with pytest.raises(ValueError, match=r"slices in itself, .* give --patient-pattern"):
        load(tmp_path)
    cohort = load(tmp_path, patient_pattern=r"^(.+)_\d+$")
    assert cohort.patients == ("A", "B")
    assert cohort.slice_index.tolist() == [1, 2, 1, 2]
    assert sum(map(len, cohort.scans.values())) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: (at / "1_mask.png").unlink(), r"P1/1.png: its mask is missing"),
        (lambda at: (at / "1.png").unlink(), r"1_mask.png: the slice of this mask is missing"),
        (lambda at: write(at / "1.tif", lesion=None), r"occurs more than once \(1.png, 1.tif\)"),
        (lambda at: (at / "1.png").write_bytes(b"x"), r"P1/1.png: "),
        (lambda at: write(at / "2.png", (6, 8, 3)), r"\(6, 8\), most slices are \(8, 8\)"),
        (
            lambda at: Image.new("L", (9, 9)).save(at / "1_mask.png"),
            r"P1/1_mask.png: the mask has shape \(9, 9\), its slice \(8, 8\)",
        ),
        (
            lambda at: Image.fromarray(np.zeros((8, 8), np.uint16)).save(at / "1.png"),
            r"is uint16; slices have 8 bits",
        ),
    ],
)
def test_one_line_says_what_is_wrong(change, message, tmp_path):
    write(tmp_path / "P1/1.png", seed=1)
    for number in (1, 2):
        write(tmp_path / f"P2/{number}.png", seed=number)
    change(tmp_path / "P1")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_other_folders_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "P1_flair.nii.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"P1_flair.nii.gz are NIfTI volumes: --data brats"):
        load(tmp_path)
    os.remove(tmp_path / "P1_flair.nii.gz")
    (tmp_path / "IM1.dcm").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"IM1.dcm are DICOM"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"--data images"):
        data.load("lgg", tmp_path)
