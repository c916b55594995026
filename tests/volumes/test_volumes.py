"""Training on volumes: one tiny run checked in many ways, and the commands around it."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from fp4jax.volumes.cases import open_data
from fp4jax.volumes.program import Program, program_of
from fp4jax.volumes.split import split_patients

import fp4jax as fp4
from fp4jax import models, volumes
from fp4jax.data import nifti, phantom
from fp4jax.data.nifti import PatchSampler
from fp4jax.data.nifti.prepare import bounding_box
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.console import Listener
from fp4jax.train.folder import RunFolder
from fp4jax.train.state import Batch
from tests.experiments.test_experiments import run as run  # the fixture

TINY = {"channels": "8,16", "strides": "2,"}
REGIONS = ("whole_tumour", "tumour_core", "enhancing")


def config(**changes) -> volumes.VolumeRun:
    """A stochastic recipe on a tiny U-Net: all that must repeat bit for bit is in it."""
    return volumes.VolumeRun(
        **{
            "arch": "unet",
            "scale": "monai",
            "recipe": "2d+rht+sr",
            "model_options": TINY,
            "patch_size": (24, 24, 16),
            "steps": 4,
            "epochs": 3,
            "learning_rate": 3e-3,
            "val_share": 0.2,
            "test_share": 0.2,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Six phantom patients in ``all``, without their labels in ``new``; prepared in ``cache``."""
    base = tmp_path_factory.mktemp("volumes")
    phantom.write_nifti(base / "all", patients=6, slices=20, image_size=32)
    shutil.copytree(base / "all", base / "new", ignore=shutil.ignore_patterns("*-seg.nii.gz"))
    return base


def source(folders: Path, name: str = "all") -> volumes.Source:
    return volumes.Source(folders / name, cache=folders / "cache")


@pytest.fixture(scope="module")
def trained(folders) -> RunFolder:
    return volumes.train(config(), source(folders), folders / "runs")


def history(folder: RunFolder) -> list[dict]:
    """Without what depends on the clock."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "waited")}
        for record in folder.history()
    ]


def final(folder: RunFolder) -> list[np.ndarray]:
    """All arrays of the last checkpoint."""
    like = program_of(config(), 4, 3).abstract()
    checkpoints = Checkpoints(folder.checkpoints)
    last, best, _ = checkpoints.restore(checkpoints.epochs()[-1], like, (like.params, like.stats))
    checkpoints.close()
    return list(map(np.asarray, jax.tree.leaves((last, best))))


def test_a_run_learns_and_says_what_it_found(trained, folders):
    records = trained.history()
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    for record in records:
        assert 0 <= record["waited"] <= 1
        assert record["val_dice"] == pytest.approx(
            np.mean([record[f"val_dice_{region}"] for region in REGIONS])
        )
    summary = trained.summary()
    assert summary is not None
    best = max(records, key=lambda record: record["val_dice"])
    assert summary["best_epoch"] == records[-1]["best_epoch"] == best["epoch"]
    assert summary["val_dice"] == best["val_dice"]
    assert summary["cases"] == {"train": 4, "val": 1, "test": 1}
    assert tuple(summary["regions"]) == REGIONS
    assert not (trained.path / "pictures").exists()
    with (trained.path / "test_cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["region"] for row in rows] == [*REGIONS, "mean"]
    for row in rows:
        for name in ("dice", "hd95_mm", "sensitivity", "precision"):
            assert float(row[name]) == pytest.approx(summary["test"][row["region"]][name])


def test_predictions_have_the_source_s_grid_and_the_scores_of_the_table(trained, folders):
    summary = trained.summary()
    (path,) = (trained.path / "predictions").iterdir()
    name = path.name.removesuffix(".nii.gz")
    case = folders / "all" / name
    predicted, image, label = (
        nibabel.load(file)
        for file in (path, case / f"{name}-t2f.nii.gz", case / f"{name}-seg.nii.gz")
    )
    assert np.array_equal(predicted.affine, image.affine)
    assert predicted.shape == image.shape
    for field in ("sform_code", "qform_code", "xyzt_units", "descrip", "pixdim"):
        assert np.array_equal(predicted.header[field], image.header[field]), field
    found, truth = (np.asarray(i.dataobj) for i in (predicted, label))
    assert set(np.unique(found)) <= {0, 1, 2, 3}
    # Written masks are nested, so only the largest region is sure to be what was scored.
    p, t = found > 0, truth > 0
    both = 2 * np.count_nonzero(p & t) / (np.count_nonzero(p) + np.count_nonzero(t))
    assert both >= summary["test"]["whole_tumour"]["dice"] - 0.2
    data = open_data(config(), source(folders))
    segmenter = volumes.from_run(trained.path)
    (place,) = data.places("test")
    image, target = (getattr(data.volumes.load(place), name) for name in ("image", "target"))
    masks = segmenter(image)
    inside = np.zeros(masks.shape[:3], bool)
    inside[bounding_box(image.any(-1))] = True
    assert not masks[~inside].any()
    for k, region in enumerate(REGIONS):
        p, t = masks[..., k] > 0, target[..., k] > 0
        dice = 2 * np.count_nonzero(p & t) / (np.count_nonzero(p) + np.count_nonzero(t))
        assert dice == pytest.approx(summary["test"][region]["dice"])


class Interrupted(Listener):
    """Raises after so many steps, or at the end of an epoch."""

    def __init__(self, steps: int | None = None, epoch: int | None = None):
        self.left, self.last = steps, epoch

    def steps(self, done: int) -> None:
        if self.left is not None:
            self.left -= done
            if self.left <= 0:
                raise KeyboardInterrupt

    def epoch(self, run: str, record: dict) -> None:
        if record["epoch"] == self.last:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_bit_equal(trained, folders, tmp_path):
    """Stopped in the middle of the first and the third epoch, and after the first."""
    for listener in (Interrupted(steps=2), Interrupted(epoch=1), Interrupted(steps=6)):
        with pytest.raises(KeyboardInterrupt):
            volumes.train(config(), source(folders), tmp_path, listener=listener)
    folder = volumes.train(config(), source(folders), tmp_path)
    assert folder.path.name == trained.path.name
    assert history(folder) == history(trained)
    assert all(map(np.array_equal, final(folder), final(trained)))
    one, other = folder.summary() or {}, trained.summary() or {}
    assert one["test"] == other["test"]
    files = [next((f.path / "predictions").iterdir()).read_bytes() for f in (folder, trained)]
    assert files[0] == files[1]
    # A finished run is left alone.
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    volumes.train(config(), source(folders), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before
    # But for pictures, if they are asked for now.
    volumes.train(config(), source(folders), tmp_path, pictures=True)
    assert len(list((folder.path / "pictures").glob("*.png"))) == 1
    assert (folder.path / "summary.json").stat().st_mtime_ns == before[folder.path / "summary.json"]


def test_new_cases_are_segmented(trained, folders, tmp_path, run):
    """By the command, with the masks that the evaluation wrote; nothing is replaced unasked."""
    arguments = (trained.path, "--root", folders / "new", "--cache", folders / "cache")
    code, out, err = run("segment", *arguments, "--out", "masks")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == len(list((tmp_path / "masks").iterdir())) == 6
    assert "whole_tumour" in out
    (expected,) = (trained.path / "predictions").iterdir()
    found = nibabel.load(tmp_path / "masks" / expected.name)
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(nibabel.load(expected).dataobj))
    code, _, err = run("segment", *arguments, "--out", "masks")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "and 5 more exist" in err
    one = folders / "all" / expected.name.removesuffix(".nii.gz")
    code, out, err = run("segment", trained.path, "--root", one, "--out", "scored", "--pictures")
    assert (code, err) == (0, "")
    assert out.count("mean Dice") == len(list((tmp_path / "scored").glob("*.png"))) == 1
    row = (trained.path / "test_cases.csv").read_text().splitlines()[-1]
    assert row in (tmp_path / "scored/scores.csv").read_text().splitlines()
    code, _, err = run("segment", *arguments, "--out", "other", "--epochs", "3")
    assert (code, "epochs cannot be changed" in err) == (2, True)


def test_a_checkpoint_is_segmented_with_and_trained_on(trained, folders, tmp_path):
    """Torch's names on disk: the masks of the run they come from; another file is another run."""
    segmenter = volumes.from_run(trained.path)
    program = segmenter.program
    model = volumes.program.build(program.config, 4, 3, 0)
    nnx_update(model, segmenter)
    path = tmp_path / "weights.npz"
    np.savez(path, **models.to_torch(model))
    start = dataclasses.replace(config(), weights=path)
    again = volumes.from_weights(start)
    image = open_data(config(), source(folders)).volumes.load(0).image
    assert np.array_equal(again(image), segmenter(image))
    one = start.id("digest")
    assert one != config().id("digest")
    moved = tmp_path / "moved.npz"
    shutil.copy(path, moved)
    assert dataclasses.replace(start, weights=moved).id("digest") == one
    np.savez(path, **{name: array + 1 for name, array in models.to_torch(model).items()})
    assert start.id("digest") != one


def nnx_update(model, segmenter) -> None:
    from flax import nnx

    nnx.update(model, segmenter.params, segmenter.stats)


def test_a_loss_that_is_not_finite_is_one_line_and_exit_code_1(
    trained, folders, monkeypatch, tmp_path, run
):
    batch = PatchSampler.batch

    def damaged(self, epoch, step):
        images, targets = batch(self, epoch, step)
        return images * (np.nan if epoch else 1), targets

    monkeypatch.setattr(PatchSampler, "batch", damaged)
    code, _, err = run(
        "train_volumes",
        *("--root", folders / "all", "--cache", folders / "cache", "--arch", "unet"),
        *("--scale", "monai", "--recipe", "2d+rht+sr", "--patch-size", "24", "24", "16"),
        *("--steps", "4", "--epochs", "3", "--learning-rate", "3e-3"),
        *("--val-share", "0.2", "--test-share", "0.2", "--model-options"),
        *(word for option in TINY.items() for word in option),
    )
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "loss is nan at step 2 (epoch 1)" in err
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--arch", "resnet"], "known names: cnn"),
        (["--scale", "1b"], "its scales are:"),
        (["--recipe", "fp5"], "known"),
        (["--patch-size", "32", "32"], "give 3 positive numbers"),
        (["--val-share", "0.9", "--test-share", "0.9"], "must leave something"),
        (["--loss", "hinge"], "known names"),
        (["--foreground", "2"], "0 to 1"),
        (["--batch-size", "0"], "at least 1"),
        (["--spacing", "1", "0", "1"], "three positive numbers"),
        (["--learning-rate", "-1"], "must be positive"),
        (["--optimizer", "sgd"], "no optimizer"),
        (["--modalities", "flair", "flair"], "each once"),
        ([], "--root"),
        (["--root", "nowhere"], "nowhere"),
        (["--root", ".", "--labels", "brats2013"], "--patterns"),
        (["--arch", "cnn", "--patch-size", "32", "32", "32", "--root", "DATA"], "dims 2"),
        (["--root", "DATA", "--regions", "oedema"], "oedema"),
        (["--root", "DATA", "--model-options", "num_heads", "8,x"], "a list of integers"),
        (["--root", "DATA", "--val-share", "0.5", "--test-share", "0.45"], "leave none"),
        (["--root", "NEW"], "no case"),
        (["--root", "DATA", "--weights", "nothing.pt"], "no file nothing.pt"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_exit_code_2(arguments, says, run, folders, tmp_path):
    known = {"DATA": folders / "all", "NEW": folders / "new"}
    code, _, err = run("train_volumes", *(known.get(word, word) for word in arguments))
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("config.json"))


def test_slices_classes_and_pictures(folders, tmp_path):
    """2D in bfloat16, a softmax over background and one region, no validation cases."""
    flat = config(
        spatial_dims=2,
        patch_size=(32, 32),
        recipe="baseline",
        regions=("whole_tumour",),
        modalities=("flair", "t1c"),
        loss="ce_dice",
        batch_size=8,
        dtype="bfloat16",
        augment="none",
        epochs=1,
        val_share=0.0,
    )
    folder = volumes.train(flat, source(folders), tmp_path, pictures=True)
    summary = folder.summary() or {}
    assert summary["best_epoch"] == 1
    assert summary["val_dice"] is None
    assert set(summary["test"]) == {"whole_tumour", "mean"}
    (picture,) = (folder.path / "pictures").iterdir()
    assert picture.read_bytes()[:4] == b"\x89PNG"
    (label_map,) = (folder.path / "predictions").iterdir()
    # Of the label values 1, 2 and 3 of the whole tumour the lowest stands for it.
    assert set(np.unique(np.asarray(nibabel.load(label_map).dataobj))) <= {0, 1}
    both = dataclasses.replace(flat, regions=REGIONS)
    with pytest.raises(ValueError, match="overlap, but the loss ce_dice"):
        volumes.train(both, source(folders), tmp_path)


def test_patients_are_split_and_not_examinations():
    names = [f"p{i}" for i in range(20)]
    split = split_patients([*names, *names], 0.1, 0.2, seed=1)
    assert [len(part) for part in (split.train, split.val, split.test)] == [14, 2, 4]
    assert split_patients(reversed(names), 0.1, 0.2, seed=1) == split
    assert split_patients(names, 0.1, 0.2, seed=2) != split
    assert split_patients(names[:3], 0.01, 0.0, seed=1).val != ()
    with pytest.raises(ValueError, match="leave none"):
        split_patients(names[:2], 0.1, 0.1, seed=1)


def test_the_data_count_and_not_where_they_lie(folders, tmp_path):
    shutil.copytree(folders / "all", tmp_path / "copy")
    one, copy = (
        open_data(config(), volumes.Source(root, cache=folders / "cache"))
        for root in (folders / "all", tmp_path / "copy")
    )
    assert one.digest == copy.digest
    case = sorted((tmp_path / "copy").iterdir())[0]
    path = case / f"{case.name}-seg.nii.gz"
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), path)
    assert open_data(config(), volumes.Source(tmp_path / "copy")).digest != one.digest


def test_label_tables_by_name_or_written_out():
    patterns = {"flair": "*flair*"}
    one = volumes.Source(Path(), patterns=patterns, label="*seg*", labels="core=1,4 whole=1,2,4")
    assert volumes.cases._table(one.labels) == {"core": {1, 4}, "whole": {1, 2, 4}}
    with pytest.raises(ValueError, match=r"core=1,4 whole=1,2,4"):
        volumes.cases._table("core=one")


@pytest.mark.parametrize("name", ["train_volumes", "segment"])
def test_help_explains_every_option(name, run):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"python -m experiments.{name}" in out


def test_dry_run_computes_nothing(run, tmp_path):
    code, out, err = run(
        "train_volumes", "--dry-run", "--arch", "cnn", "--spatial-dims", "2", "--recipe", "5",
        "--patch-size", "32", "32", "--model-options", "stages", "2", "channels", "16",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for word in ("encoders.1", "2d+rht+sr", "high precision", "GMAC", "32x32 voxels", "MB beside"):
        assert word in out
    assert not list(tmp_path.iterdir())


SLOW = [recipe for recipe in fp4.recipes() if recipe not in ("chain_rule",)]


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, marks=[pytest.mark.slow] * (r in SLOW)) for r in fp4.recipes()],
)
def test_every_recipe_takes_steps(recipe, folders):
    """One compilation each; the loss of one batch falls."""
    one = config(recipe=recipe, augment="none", schedule="constant")
    images, targets = open_data(one, source(folders)).sampler(one).batch(0, 0)
    program = Program(one, 4, 3)
    state = program.init(jnp.uint32(1))
    losses = []
    for step in range(8):
        batch = Batch(jnp.asarray(images), jnp.asarray(targets), jnp.arange(2), jnp.int32(step))
        state, values = program.step(state, batch)
        losses.append(float(values["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert program.step._cache_size() == 1


def test_phantom_patients_as_nifti(folders, tmp_path, run):
    cases = nifti.find_cases(folders / "all")
    assert [case.layout for case in cases] == ["brats2023"] * 6
    one = phantom.patient(0, slices=20, image_size=32)
    case = nifti.VolumeSet(cases, cache=False).load(0)
    # Voxel (column, row, slice) of the phantom; RAS turns the first two around.
    truth = np.flip(one.labels.transpose(2, 1, 0), (0, 1))
    assert np.array_equal(case.target[..., 0], truth > 0)
    assert np.array_equal(case.target[..., 2], truth == 3)
    with pytest.raises(ValueError, match="not empty"):
        phantom.write_nifti(folders / "all")
    size = ("--patients", "1", "--slices", "20", "--image-size", "32")
    assert run("data", "--nifti", "made", *size)[0] == 0
    (made,) = (tmp_path / "made").iterdir()
    for file in made.iterdir():
        assert file.read_bytes() == (folders / "all" / made.name / file.name).read_bytes()
    assert json.dumps(case.case.patient) == '"BraTS-GLI-00000"'


SMALL_SWIN = {"feature_size": 8, "depths": "1,1,1,1", "num_heads": "1,2,4,8"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", fp4.recipes())
def test_every_recipe_trains_swin_unetr_on_a_real_patient(recipe, shared, tmp_path):
    """A BraTS 2013 patient with two of the four contrasts, in 3D: the loss of 16 steps falls."""
    patient = volumes.Source(
        shared / "brats_sample",
        patterns={"flair": "Flair*.nii.gz", "t1c": "T1c*.nii.gz"},
        label="OTMultiClass*.nii.gz",
        labels="brats2013",
        mask="brainmask*.nii.gz",
        cache=tmp_path / "cache",
    )
    small = volumes.VolumeRun(
        recipe=recipe,
        model_options=SMALL_SWIN,
        patch_size=(64, 32, 32),
        foreground=1.0,
        steps=8,
        epochs=2,
        learning_rate=1e-3,
        schedule="constant",
        val_share=0.0,
        test_share=0.0,
    )
    folder = volumes.train(small, patient, tmp_path)
    first, second = folder.history()
    assert second["train_loss"] < first["train_loss"]
