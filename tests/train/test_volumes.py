"""Training on volumes: one tiny run checked in many ways."""

import csv
import dataclasses
import shutil
from pathlib import Path

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import models
from fp4jax.data import nifti, phantom
from fp4jax.data.nifti.labels import given
from fp4jax.data.nifti.prepare import bounding_box
from fp4jax.train import (
    Batch,
    Options,
    Program,
    RunConfig,
    RunFolder,
    Saving,
    Source,
    Volumes,
    dry_run,
    evaluate_folder,
    read_trained,
    train,
    unseen,
)
from fp4jax.train.member import member_of
from fp4jax.train.program import build
from fp4jax.train.volumes.shares import split_patients
from tests.train import outcome
from tests.train.test_train_resume import At, interrupt

TINY = {"channels": "8,16", "strides": "2,"}
REGIONS = ("whole_tumour", "tumour_core", "enhancing")
_OF_DATA = {field.name for field in dataclasses.fields(Volumes)}


def config(**changes) -> RunConfig:
    """A stochastic recipe on a tiny U-Net: all that must repeat bit for bit is in it.

    ``changes`` are fields of RunConfig or of its Volumes.
    """
    own = {name: changes.pop(name) for name in _OF_DATA & changes.keys()}
    small = {"patch_size": (24, 24, 16), "steps": 4, "val_share": 0.2, "test_share": 0.2}
    return RunConfig(
        **{
            "data": Volumes(**{**small, **own}),
            "arch": "unet",
            "scale": "monai",
            "recipe": "2d+rht+sr",
            "model_options": TINY,
            "epochs": 3,
            "learning_rate": 3e-3,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Six phantom patients in ``all``; prepared in ``cache``."""
    base = tmp_path_factory.mktemp("volumes")
    phantom.write_nifti(base / "all", patients=6, slices=20, image_size=32)
    return base


def opened(run: RunConfig, folders: Path, name: str = "all"):
    return run.data.open(Source(folders / name, cache=folders / "cache"))


@pytest.fixture(scope="module")
def data(folders):
    return opened(config(), folders)


@pytest.fixture(scope="module")
def trained(data, folders) -> RunFolder:
    (folder,) = train(config(), data, folders / "runs")
    return folder


def test_a_run_learns_and_says_what_it_found(trained):
    records = trained.history()
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    for record in records:
        assert 0 <= record["waited"] <= 1
        assert record["val_dice"] == pytest.approx(
            np.mean([record[f"val_dice_{region}"] for region in REGIONS])
        )
    summary, run = trained.summary(), read_trained(trained.path)
    assert summary is not None
    best = max(records, key=lambda record: record["val_dice"])
    assert summary["best_epoch"] == records[-1]["best_epoch"] == best["epoch"]
    assert [len(part) for part in (run.split.train, run.split.val, run.split.test)] == [4, 1, 1]
    assert (run.regions, len(run.channels)) == (REGIONS, 4)
    assert set(summary["test_patients"]) == set(run.split.test)
    assert 0 <= summary["threshold"] <= 1
    # Slices' metrics by the same names.
    for part in ("val", "test"):
        assert {"auprc", "hard_dice", "hard_f2_score_at_best"} <= summary[part].keys()
    with (trained.path / "test_cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["region"] for row in rows] == [*REGIONS, "mean"]
    for row in rows:
        for name in ("dice", "hd95_mm", "sensitivity", "precision"):
            assert float(row[name]) == pytest.approx(summary["test_regions"][row["region"]][name])
    # Pictures are a listener's.
    assert not list(trained.path.rglob("*.png"))


def test_predictions_have_the_source_s_grid_and_the_scores_of_the_table(trained, data, folders):
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
    # Scores are of the file as it is written.
    masks = [nifti.to_regions(labels, "brats2023", regions=REGIONS) for labels in (found, truth)]
    report = fp4.metrics.region_report(
        *masks, REGIONS, tuple(map(float, predicted.header.get_zooms()))
    )
    for region, scores in report.items():
        assert scores == pytest.approx(summary["test_regions"][region])
    run = read_trained(trained.path)
    (place,) = data.places(run.split.test)
    image = data.volumes.load(place).image
    masks = run.model().segment(image).masks
    inside = np.zeros(masks.shape[:3], bool)
    inside[bounding_box(image.any(-1))] = True
    assert not masks[~inside].any()


def test_an_interrupted_run_ends_bit_equal(trained, data, tmp_path):
    """Stopped in the middle of the first and the third epoch, and at the end of the first."""
    for step in (2, 4, 6):
        options = Options(At(step, interrupt), saving=Saving(epochs=1))
        with pytest.raises(KeyboardInterrupt):
            train(config(), data, tmp_path, options=options)
    (folder,) = train(config(), data, tmp_path)
    outcome.assert_same(folder, trained)
    files = [next((f.path / "predictions").iterdir()).read_bytes() for f in (folder, trained)]
    assert files[0] == files[1]
    # A finished run is left alone.
    before = outcome.contents(folder)
    train(config(), data, tmp_path)
    assert outcome.contents(folder) == before


def test_scores_do_not_depend_on_other_patients(trained, data, folders):
    """One alone, among others, whatever their order."""
    run = read_trained(trained.path)
    model, summary = run.model(), trained.summary()
    again = evaluate_folder(trained.path, data)
    assert {name: again[name] for name in summary["test"]} == summary["test"]
    (patient,) = run.split.test
    (case,) = (folders / "all").glob(f"{patient}*")
    shutil.copytree(case, folders / "one" / case.name)
    alone = opened(config(), folders, "one")
    assert alone.contents[patient] == data.contents[patient]
    both = [one.score(model, [patient], run.threshold) for one in (data, alone)]
    assert repr(both[0]) == repr(both[1])
    assert evaluate_folder(trained.path, alone)["patients"] == 1
    two = [patient, *run.split.val]
    assert data.validate(model, two) == data.validate(model, two[::-1])


def test_patients_are_known_under_other_names(trained, folders):
    run = read_trained(trained.path)
    for path in (folders / "all").rglob("*.nii.gz"):
        new = folders / "renamed" / path.relative_to(folders / "all").as_posix().replace("-0", "-9")
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, new)
    copies = opened(config(), folders, "renamed")
    assert not set(copies.patients) & set(run.contents)
    found = unseen(run, copies)
    assert found.patients == tuple(name.replace("-0", "-9") for name in run.split.test)
    # each image is known by itself
    (image, *_) = copies.contents[found.patients[0]].split()[1:]
    others = [run.contents[patient].split() for patient in run.split.train + run.split.val]
    assert image in run.contents[run.split.test[0]].split()
    assert not any(image in other for other in others)


def test_a_checkpoint_is_trained_on(trained, data, tmp_path):
    """Torch's names on disk: the parameters of the run that they come from."""
    own = read_trained(trained.path).model()
    module = build(config(), 4, 3, 0)
    nnx.update(module, own.params, own.stats)
    path, moved = tmp_path / "weights.npz", tmp_path / "moved.npz"
    np.savez(path, **models.to_torch(module))
    shutil.copy(path, moved)
    start = config(weights=path)
    begun = Program(start, 4, 3).start(1)
    for mine, theirs in ((begun.params, own.params), (begun.stats, own.stats)):
        assert all(
            map(np.array_equal, nnx.to_flat_state(mine).leaves, nnx.to_flat_state(theirs).leaves)
        )
    ids = {
        member_of(run, data, tmp_path).folder.path.name
        for run in (config(), start, dataclasses.replace(start, weights=moved))
    }
    assert len(ids) == 2


@pytest.mark.slow
def test_slices_classes_and_no_validation(folders, tmp_path):
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
    (folder,) = train(flat, opened(flat, folders), tmp_path)
    summary = folder.summary() or {}
    assert summary["best_epoch"] == 1
    assert summary["val"] == {}
    assert set(summary["test_regions"]) == {"whole_tumour", "mean"}
    (label_map,) = (folder.path / "predictions").iterdir()
    # Of the label values 1, 2 and 3 of the whole tumour the lowest stands for it.
    assert set(np.unique(np.asarray(nibabel.load(label_map).dataobj))) <= {0, 1}
    both = dataclasses.replace(flat, data=dataclasses.replace(flat.data, regions=REGIONS))
    with pytest.raises(ValueError, match="overlap, but the loss ce_dice"):
        train(both, opened(both, folders), tmp_path)


def test_patients_are_split_and_not_examinations():
    names = [f"p{i}" for i in range(20)]
    split = split_patients([*names, *names], 0.1, 0.2, seed=1)
    assert [len(part) for part in (split.train, split.val, split.test)] == [14, 2, 4]
    assert split_patients(reversed(names), 0.1, 0.2, seed=1) == split
    assert split_patients(names, 0.1, 0.2, seed=2) != split
    assert split_patients(names[:3], 0.01, 0.0, seed=1).val != ()
    with pytest.raises(ValueError, match="leave none"):
        split_patients(names[:2], 0.1, 0.1, seed=1)


def test_folds_hold_out_every_patient_once(data):
    splits = [data.split(config(split=f"fold{i}", folds=3)) for i in range(3)]
    assert sorted(p for split in splits for p in (*split.val, *split.test)) == sorted(data.patients)
    for split in splits:
        assert not {*split.val, *split.test} & set(split.train)
        assert split.val
        assert split.test


def test_the_data_count_and_not_where_they_lie(data, folders, tmp_path):
    shutil.copytree(folders / "all", tmp_path / "copy")
    copy = config().data.open(Source(tmp_path / "copy", cache=folders / "cache"))
    assert (copy.digest, copy.contents) == (data.digest, data.contents)
    case = sorted((tmp_path / "copy").iterdir())[0]
    path = case / f"{case.name}-seg.nii.gz"
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), path)
    assert config().data.open(Source(tmp_path / "copy")).digest != data.digest


def test_label_tables_by_name_or_written_out():
    task = Volumes(patterns={"flair": "*flair*"}, label="*seg*", labels="core=1,4 whole=1,2,4")
    assert given(task.labels) == {"core": {1, 4}, "whole": {1, 2, 4}}
    with pytest.raises(ValueError, match=r"core=1,4 whole=1,2,4"):
        given("core=one")
    with pytest.raises(ValueError, match="give --patterns"):
        Volumes(label="*seg*")


def test_dry_run_looks_at_the_data_and_trains_nothing(data, folders):
    before = set(folders.rglob("*"))
    text = dry_run(config(), data)
    for word in ("6 patients, 6 scans", "4 train, 1 val, 1 test", "whole_tumour", "MB beside"):
        assert word in text
    assert set(folders.rglob("*")) == before


SLOW = [recipe for recipe in fp4.recipes() if recipe not in ("chain_rule",)]


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, marks=[pytest.mark.slow] * (r in SLOW)) for r in fp4.recipes()],
)
def test_every_recipe_takes_steps(recipe, data):
    """One compilation each; the loss of one batch falls."""
    one = config(recipe=recipe, augment="none", schedule="constant")
    split = data.split(one)
    images, targets, _ = next(data.feed(one, split.train, 0).batches(1))
    program = Program(one, 4, 3)
    state = program.start(1)
    losses = []
    for step in range(8):
        index = jnp.arange(2, dtype=jnp.int32)
        batch = Batch(
            jnp.asarray(images), jnp.asarray(targets), index, jnp.int32(step), jnp.float32(3e-3)
        )
        state, values = program.step(state, batch)
        losses.append(float(values["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert program.step._cache_size() == 1


def test_phantom_patients_as_nifti(folders):
    cases = nifti.find_cases(folders / "all")
    assert [case.layout for case in cases] == ["brats2023"] * 6
    one = phantom.patient(0, slices=20, image_size=32)
    case = nifti.VolumeSet(cases, cache=False).load(0)
    # Voxel (column, row, slice) of the phantom; RAS turns the first two around.
    truth = np.flip(one.labels.transpose(2, 1, 0), (0, 1))
    assert np.array_equal(case.target[..., 0], truth > 0)
    assert np.array_equal(case.target[..., 2], truth == 3)
    assert case.case.patient == "BraTS-GLI-00000"
    with pytest.raises(ValueError, match="not empty"):
        phantom.write_nifti(folders / "all")


SMALL_SWIN = {"feature_size": 8, "depths": "1,1,1,1", "num_heads": "1,2,4,8"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", fp4.recipes())
def test_every_recipe_trains_swin_unetr_on_a_real_patient(recipe, shared, tmp_path):
    """A BraTS 2013 patient with two of the four contrasts, in 3D: the loss of 16 steps falls."""
    task = Volumes(
        patterns={"flair": "Flair*.nii.gz", "t1c": "T1c*.nii.gz"},
        label="OTMultiClass*.nii.gz",
        labels="brats2013",
        mask="brainmask*.nii.gz",
        patch_size=(64, 32, 32),
        foreground=1.0,
        steps=8,
        val_share=0.0,
        test_share=0.0,
    )
    small = RunConfig(
        task,
        recipe=recipe,
        model_options=SMALL_SWIN,
        epochs=2,
        learning_rate=1e-3,
        schedule="constant",
    )
    patient = task.open(Source(shared / "brats_sample", cache=tmp_path / "cache"))
    (folder,) = train(small, patient, tmp_path)
    first, second = folder.history()
    assert second["train_loss"] < first["train_loss"]
