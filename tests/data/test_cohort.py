"""Cohort: validation, selection, resizing to OpenCV's bits, and its folder on disk."""

import json

import numpy as np
import pytest

from fp4jax.data import Cohort
from fp4jax.data.resize import resize_images, resize_masks


def make(n=6, size=8, channels=("a", "b", "c"), **changes):
    rng = np.random.default_rng(0)
    fields = {
        "images": rng.integers(0, 256, (n, size, size, len(channels)), np.uint8),
        "masks": rng.integers(0, 2, (n, size, size), np.uint8),
        "patient_ids": np.array([f"p{i // 2}" for i in range(n)]),
        "slice_index": np.arange(n, dtype=np.int32) % 2,
        "name": "made",
        "channels": channels,
    }
    return Cohort(**(fields | changes))


def same(a, b):
    assert (a.name, a.channels) == (b.name, b.channels)
    for field in ("images", "masks", "patient_ids", "slice_index"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_properties():
    masks = np.zeros((6, 8, 8), np.uint8)
    masks[[1, 4], 3, 3] = 1
    cohort = make(masks=masks)
    assert len(cohort) == 6
    assert cohort.patients == ("p0", "p1", "p2")
    assert cohort.positive.tolist() == [False, True, False, False, True, False]
    assert cohort.nbytes == 6 * 8 * 8 * 4 + cohort.patient_ids.nbytes + 6 * 4
    assert "3 patients, 6 slices of 8x8" in repr(cohort)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 8, 8, 3), np.float32)}, "float32.*uint8"),
        ({"images": np.zeros((6, 8, 8), np.uint8)}, r"\(n, h, w, c\)"),
        ({"masks": np.zeros((5, 8, 8), np.uint8)}, "one mask for each image"),
        ({"masks": np.zeros((6, 8, 8), bool)}, "masks are bool"),
        ({"masks": np.full((6, 8, 8), 255, np.uint8)}, "up to 255.*0 and 1"),
        ({"patient_ids": np.arange(6)}, "patient_ids"),
        ({"patient_ids": np.array(["p"])}, "patient_ids"),
        ({"slice_index": np.arange(6)}, "int32"),
        ({"channels": ("a",)}, "1 channel names"),
        ({"slice_index": np.zeros(6, np.int32)}, "slice 0 of patient p0 occurs more than once"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes) if "channels" not in changes else Cohort(**(vars(make()) | changes))


def test_select_keeps_order_and_copies():
    cohort = make()
    part = cohort.select(["p2", "p0"])
    assert part.patient_ids.tolist() == ["p0", "p0", "p2", "p2"]
    np.testing.assert_array_equal(part.images, cohort.images[[0, 1, 4, 5]])
    assert len(cohort.select([])) == 0
    assert cohort.select("p1").patients == ("p1",)
    with pytest.raises(ValueError, match=r"has no patients \['px'\].*such as \['p0'"):
        cohort.select(["p0", "px"])


def test_save_and_open(tmp_path):
    cohort = make()
    folder = cohort.save(tmp_path / "a" / "cohort")
    opened = Cohort.open(folder)
    same(opened, cohort)
    assert isinstance(opened.images, np.memmap)
    assert isinstance(opened.masks, np.memmap)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["cohort"]
    # Saved again: replaced as a whole, while the mapped arrays stay readable.
    make(n=2).save(folder)
    assert len(Cohort.open(folder)) == 2
    np.testing.assert_array_equal(opened.images, cohort.images)
    # An opened cohort can be saved over itself.
    Cohort.open(folder).save(folder)
    assert len(Cohort.open(folder)) == 2


def test_save_leaves_other_folders_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("text")
    with pytest.raises(ValueError, match="not a saved cohort"):
        make().save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_failed_save_leaves_nothing(tmp_path, monkeypatch):
    folder = make().save(tmp_path / "cohort")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        make(n=2).save(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["cohort"]
    assert len(Cohort.open(folder)) == 6


def test_open_refuses(tmp_path):
    with pytest.raises(ValueError, match="is not a saved cohort"):
        Cohort.open(tmp_path / "nothing")
    folder = make().save(tmp_path / "cohort")
    images = folder / "images.npy"
    whole = images.read_bytes()
    images.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged"):
        Cohort.open(folder)
    images.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        Cohort.open(folder)
    np.save(images, make(n=4).images)
    with pytest.raises(ValueError, match="damaged"):
        Cohort.open(folder)
    images.write_bytes(whole)
    np.save(folder / "patient_ids.npy", np.array([{}] * 6), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        Cohort.open(folder)
    (folder / "cohort.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        Cohort.open(folder)


def test_resize_equals_opencv(golden):
    transforms = golden("ref_transforms.npz")
    image = transforms["img_bgr_uint8"][None, :200, :180]
    mask = transforms["mask_uint8"][None, :200, :180]
    mean, sd = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = transforms["eval_resize_from_200x180.image_chw"].transpose(1, 2, 0) * sd + mean
    np.testing.assert_array_equal(resize_images(image, (256, 256))[0], np.rint(expected * 255))
    np.testing.assert_array_equal(
        resize_masks(mask, (256, 256))[0], transforms["eval_resize_from_200x180.mask"]
    )


def test_resize():
    cohort = make()
    assert cohort.resize(8) is cohort
    assert cohort.resize((4, 6)).images.shape == (6, 4, 6, 3)
    half = cohort.resize(4)
    # Half the size: the mean of two by two pixels, up to the rounding; the mask's even pixels.
    mean = cohort.images.reshape(6, 4, 2, 4, 2, 3).mean((2, 4))
    assert np.abs(half.images - mean).max() <= 1
    np.testing.assert_array_equal(half.masks, cohort.masks[:, ::2, ::2])
    white = make(images=np.full((6, 8, 8, 3), 255, np.uint8))
    assert (white.resize(13).images == 255).all()
    with pytest.raises(ValueError, match="at least 1"):
        cohort.resize(0)
