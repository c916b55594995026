"""Masks of a folder of slices: from a run, from a packed file, and what is refused."""

import csv
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from fp4jax import metrics, predict
from fp4jax.data import resize
from fp4jax.data.image_files import read_image
from fp4jax.predict import slice_files
from fp4jax.train import read_trained, train
from tests import blobs
from tests.cli.test_verbs import run as run  # the fixture


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that finds most of the disks."""
    out = tmp_path_factory.mktemp("runs")
    (folder,) = train(blobs.config(epochs=3, recipe="2d+rht+sr"), blobs.cohort(), out)
    return folder.path


@pytest.fixture
def folder(tmp_path):
    """Slices of two sizes and formats, a mask that is no slice, and a note."""
    cohort = blobs.cohort()
    path = tmp_path / "slices"
    path.mkdir()
    for i in range(3):
        tifffile.imwrite(path / f"p_{i}.tif", cohort.images[i + 1], photometric="rgb")
    large = resize.resize_images(cohort.images[4:5], (50, 40))[0]
    Image.fromarray(large).save(path / "large.png")
    tifffile.imwrite(path / "p_0_mask.tif", cohort.masks[1])
    (path / "notes.txt").write_text("no slice")
    return path


NAMES = ("large.png", "p_0.tif", "p_1.tif", "p_2.tif")


def masks_of(out, names=NAMES) -> list[np.ndarray]:
    found = []
    for name in names:
        stem, suffix = name.split(".")
        path = out / f"{stem}_mask.{suffix}"
        found.append(np.asarray(Image.open(path) if suffix == "png" else tifffile.imread(path)))
    return found


def expected_masks(trained, folder, names=NAMES) -> list[np.ndarray]:
    """The trainer's model's, one slice at a time."""
    one = read_trained(trained)
    model = one.model()
    found = []
    for name in names:
        image = read_image(folder / name, 3)
        small = resize.resize_images(image[None], (32, 32))
        mask = metrics.probabilities(model.logits(small)[..., 0]) >= one.threshold
        mask = mask.astype(np.uint8)
        found.append(255 * resize.resize_masks(mask, image.shape[:2])[0])
    return found


def test_a_run_is_segmented_saved_and_used_again(run, trained, folder, tmp_path):
    """Masks agree with the unpacked model's on all but 1 % of the pixels, its rest in bfloat16."""
    arguments = ("--input", folder, "--out", "masks", "--pictures")
    code, out, err = run("predict", trained, *arguments, "--save", "m.safetensors")
    assert (code, err) == (0, "")
    assert "bits each" in out
    assert "from each image; the run was not calibrated" in out
    expected, masks = expected_masks(trained, folder), masks_of(tmp_path / "masks")
    assert [mask.shape for mask in masks] == [(50, 40), (32, 32), (32, 32), (32, 32)]
    assert any(mask.any() for mask in masks)
    for mask, wanted in zip(masks, expected, strict=True):
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask == wanted).mean() >= 0.99
    with (tmp_path / "masks/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(NAMES)
    for row, mask in zip(rows, masks, strict=True):
        assert int(row["lesion_pixels"]) == (mask > 0).sum()
        assert float(row["share"]) == pytest.approx((mask > 0).mean(), abs=1e-6)
    overlay = np.asarray(Image.open(tmp_path / "masks/large_overlay.png"))
    assert overlay.shape == (50, 40, 3)
    grey = (overlay == overlay[..., :1]).all(-1)
    np.testing.assert_array_equal(~grey[masks[0] > 0], True)
    assert grey[masks[0] == 0].all()
    # from the file alone
    code, out, err = run("predict", "m.safetensors", "--input", folder, "--out", "again")
    assert (code, err) == (0, "")
    for one, other in zip(masks, masks_of(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(one, other)
    code, out, err = run("predict", "m.safetensors", "--decode", "--input", folder, "--out", "once")
    assert (code, err) == (0, "")
    for one, other in zip(masks, masks_of(tmp_path / "once"), strict=True):
        assert (one == other).mean() > 0.999  # sums in another order
    commands = [
        json.loads((tmp_path / name / "made_by.jsonl").read_text().splitlines()[0])
        for name in ("again", "once")
    ]
    assert commands[1] == {**commands[0], "decode": True}
    arguments = ("--decode", "--input", folder, "--out", "again")
    code, _, err = run("predict", "m.safetensors", *arguments)
    assert (code, "by a command that differs in decode; name another" in err) == (2, True)
    about = predict.describe(tmp_path / "m.safetensors")
    assert (about.arch, about.recipe, about.run) == ("cnn", "2d+rht+sr", trained.name)
    # nothing is replaced unasked
    before = (tmp_path / "again/predictions.csv").stat().st_mtime_ns
    arguments = ("--input", folder, "--out", "again", "--threshold", "1")
    code, _, err = run("predict", "m.safetensors", *arguments)
    assert (code, "exist already" in err) == (2, True)
    arguments = ("--save", "m.safetensors", "--rest", "float32")
    code, _, err = run("predict", trained, *arguments)
    assert (code, "--overwrite" in err) == (2, True)
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = run("predict", trained, "--save", "notes.txt")
    assert (code, err) == (2, "error: notes.txt exists; name another file, or pass --overwrite.\n")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "again/predictions.csv").stat().st_mtime_ns == before
    arguments = ("--input", folder, "--out", "again", "--overwrite", "--threshold", "1")
    assert run("predict", "m.safetensors", *arguments)[0] == 0
    assert not any(mask.any() for mask in masks_of(tmp_path / "again"))


def test_the_packed_model_is_the_unpacked_one(trained, folder, tmp_path):
    """With the rest in float32, masks are equal but for pixels on the threshold itself."""
    network = predict.from_module(*predict.packed_run(trained))
    predict.segment_slices(network, folder, tmp_path / "out")
    for mask, wanted in zip(
        masks_of(tmp_path / "out"), expected_masks(trained, folder), strict=True
    ):
        assert (mask != wanted).sum() <= 1


def test_a_run_is_segmented_as_it_was_scored(trained, folder, tmp_path):
    """Without --save by the trainer's own model, to the bit."""
    predict.segment_slices(predict.from_run(trained), folder, tmp_path / "out")
    for mask, wanted in zip(
        masks_of(tmp_path / "out"), expected_masks(trained, folder), strict=True
    ):
        np.testing.assert_array_equal(mask, wanted)


def test_slices_do_not_depend_on_each_other(trained, folder, tmp_path):
    """One alone has the mask that it has among others."""
    network = predict.from_run(trained)
    predict.segment_slices(network, folder, tmp_path / "all")
    for name in NAMES:
        own = tmp_path / name / "slices"
        own.mkdir(parents=True)
        (own / name).write_bytes((folder / name).read_bytes())
        predict.segment_slices(network, own, tmp_path / name / "out")
        (one,) = masks_of(tmp_path / name / "out", (name,))
        (among,) = masks_of(tmp_path / "all", (name,))
        np.testing.assert_array_equal(one, among)


def test_options(trained, folder, tmp_path):
    network = predict.from_run(trained)
    predict.segment_slices(network, folder, tmp_path / "one")
    # images of a folder that is stored the other way round
    mirrored = tmp_path / "bgr"
    mirrored.mkdir()
    for name in NAMES[1:]:
        image = read_image(folder / name, 3)[..., ::-1].copy()
        tifffile.imwrite(mirrored / name, image, photometric="rgb")
    options = predict.SliceOptions(channel_order="ref_bgr")
    predict.segment_slices(network, mirrored, tmp_path / "four", options)
    # ... or of a run that was trained so
    task = dataclasses.replace(network.task, channel_order="ref_bgr")
    reversed_ = dataclasses.replace(network, task=task)
    predict.segment_slices(reversed_, mirrored, tmp_path / "five")
    for out in ("four", "five"):
        for a, b in zip(
            masks_of(tmp_path / "one", NAMES[1:]), masks_of(tmp_path / out, NAMES[1:]), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    none = dataclasses.replace(network, about=dataclasses.replace(network.about, threshold=1.0))
    higher = predict.segment_slices(none, folder, tmp_path / "six")
    assert sum(row.lesion_pixels for row in higher) == 0


def test_packed_files_know_what_the_run_knew(tmp_path, trained):
    """Order and names of the channels, threshold, size, regions."""
    one = read_trained(trained)
    about = predict.packed_run(trained)[1]
    assert about.channels == ("a", "b", "c")
    assert about.regions == ("lesion",)
    assert about.threshold == one.threshold
    assert about.create_task() == one.config.data
    assert (about.image_size, about.num_classes, about.exclusive) == (32, 1, False)
    assert predict.About.from_json(about.to_json()) == about


def test_an_interrupted_command_goes_on(trained, folder, tmp_path, run, monkeypatch):
    """What is there stays, what is missing is made, and the table has all; case by case."""
    write_mask = slice_files.write_mask

    def interrupted(path, mask):
        if path.name == "p_1_mask.tif":
            raise KeyboardInterrupt
        write_mask(path, mask)

    arguments = (trained, "--input", folder, "--out", "masks", "--save", "m.safetensors")
    monkeypatch.setattr(slice_files, "write_mask", interrupted)
    code, _, err = run("predict", *arguments)
    assert (code, "repeat the command" in err) == (130, True)
    monkeypatch.setattr(slice_files, "write_mask", write_mask)
    masks = tmp_path / "masks"
    before = {path: path.stat().st_mtime_ns for path in masks.glob("*_*")}
    assert len(before) == 2 + 1
    code, _, err = run("predict", *arguments)
    assert (code, err) == (0, "")
    kept = {p: t for p, t in before.items() if p.name != "made_by.jsonl"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert run("predict", "m.safetensors", "--input", folder, "--out", "other")[0] == 0
    for file in (tmp_path / "other").iterdir():
        if file.name != "made_by.jsonl":
            assert (masks / file.name).read_bytes() == file.read_bytes()
    # Another threshold is another command.
    code, _, err = run("predict", *arguments, "--threshold", "0.9")
    assert (code, "differs in threshold; name" in err) == (2, True)


def test_bad_slices_are_named_before_anything_is_written(run, trained, folder, tmp_path):
    (folder / "cut.tif").write_bytes((folder / "p_0.tif").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "grey.png")
    tifffile.imwrite(folder / "deep.tif", np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    code, _, err = run("predict", trained, "--input", folder, "--out", "masks")
    assert code == 2
    assert err.startswith("error: 4 of 8 files cannot be segmented: ")
    assert len(err.strip().splitlines()) == 1
    for name in ("cut.tif", "empty.png", "grey.png", "deep.tif"):
        assert name in err
    assert "uint16 (8, 8, 3)" in err
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to do"),
        (("--input", "nowhere"), "nowhere is no folder"),
        (("--input", "."), "has no slices"),
        (("--save", "m.safetensors", "--out", "masks"), "--out: nothing is segmented"),
        (("--save", "m.safetensors", "--threshold", "0"), "--threshold: nothing is segmented"),
        (("--input", ".", "--rest", "float32"), "give --save, too"),
        (("--input", ".", "--threshold", "2"), "0 to 1"),
        (("--save", "m.safetensors", "--recipe", "fp5"), "known names"),
        (("--save", "m.safetensors", "--recipe", "baseline"), "cannot be packed"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments, says, run, trained, tmp_path):
    code, _, err = run("predict", trained, *arguments)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_is_no_model(run, trained, tmp_path):
    (tmp_path / "text.safetensors").write_text("text")
    for model, says in (
        ("text.safetensors", "no safetensors file"),
        ("none.safetensors", "is no file"),
        (".", "holds no run"),
    ):
        code, _, err = run("predict", model, "--input", ".", "--out", "masks")
        assert code == 2
        assert says in err
    for option in (("--save", "other.safetensors"), ("--recipe", "full"), ("--rest", "float32")):
        arguments = ("text.safetensors", "--input", ".", *option)
        code, _, err = run("predict", *arguments)
        assert (code, f"{option[0]}: for runs" in err) == (2, True)


def test_baseline_runs_are_quantized_on_request(trained, folder, tmp_path):
    """Post-training quantization: the baseline's weights with another recipe."""
    (baseline,) = train(
        blobs.config(epochs=1, recipe="baseline"), blobs.cohort(), tmp_path / "runs"
    )
    with pytest.raises(ValueError, match="was run with the recipe 'baseline' and cannot be packed"):
        predict.packed_run(baseline.path)
    _, about = predict.packed_run(baseline.path, recipe="forward_only", rest_dtype=jnp.bfloat16)
    assert about.recipe == "forward_only"


def test_two_slices_of_one_name(folder):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "p_1.png")
    with pytest.raises(ValueError, match=r"p_1.png and p_1.tif would have one result"):
        slice_files.find(folder)


def test_one_channel_and_palettes(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", 1)[..., 0], grey)
    Image.fromarray(np.stack([grey] * 3, -1)).quantize(64).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png", 3).shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"grey.png: is uint8 \(8, 8\), but the model takes"):
        read_image(tmp_path / "grey.png", 3)


def test_a_failed_write_leaves_nothing_behind(trained, folder, tmp_path, monkeypatch):
    """The mask that was being written is not there, and no temporary file is."""
    network = predict.from_run(trained)

    def fail(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="No space left"):
        predict.segment_slices(network, folder, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "large_mask.png",
        "made_by.jsonl",
    }
