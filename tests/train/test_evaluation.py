"""A run on other data: no patient that it has seen is scored, and it says which were left out."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from fp4jax.data import Cohort
from fp4jax.files import read_json, write_json
from fp4jax.train import (
    RunFolder,
    SliceData,
    Slices,
    Volumes,
    evaluate_folder,
    from_json,
    read_trained,
    train,
    unseen,
)
from tests import blobs
from tests.train import outcome

COHORT = blobs.cohort()
CONFIG = blobs.config(epochs=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    (folder,) = train(CONFIG, COHORT, tmp_path_factory.mktemp("runs"), options=blobs.OFTEN)
    return folder


@pytest.fixture(scope="module")
def split(run):
    return read_trained(run.path).split


def renamed(cohort: Cohort, prefix: str = "x") -> Cohort:
    ids = np.array([f"{prefix}{name}" for name in cohort.patient_ids])
    return dataclasses.replace(cohort, patient_ids=ids)


def joined(*cohorts: Cohort) -> Cohort:
    names = ("images", "masks", "patient_ids", "slice_index")
    columns = {name: np.concatenate([getattr(one, name) for one in cohorts]) for name in names}
    return dataclasses.replace(cohorts[0], **columns)


def scored(run, cohort, **options) -> tuple[str, ...]:
    return unseen(read_trained(run.path), SliceData(cohort), **options).patients


def test_its_own_data_are_scored_as_they_were(run, split):
    again = evaluate_folder(run.path, COHORT)
    test = run.summary()["test"]
    assert {name: again[name] for name in test} == test
    assert again["scored"] == (
        "2 patients scored; left out: 9 trained on, 1 the epoch was chosen on"
    )
    trained, chosen = again["left_out"]["trained on"], again["left_out"]["the epoch was chosen on"]
    assert (trained, chosen) == ([*split.train], [*split.val])
    assert (again["run"], again["threshold"]) == ("finished", run.summary()["threshold"])


def test_parts_copies_and_more_of_its_data(run, split):
    """What would be another split of other patients is none."""
    few = COHORT.select([*split.train[:5], *split.val, split.test[0]])
    found = evaluate_folder(run.path, few)
    assert found["patients"] == 1
    assert found["left_out"]["trained on"] == sorted(split.train[:5])
    # Whatever the patients and their slices are called.
    copy = dataclasses.replace(renamed(COHORT), slice_index=COHORT.slice_index + 7)
    assert scored(run, copy) == tuple(f"x{name}" for name in split.test)
    more = joined(COHORT, renamed(blobs.cohort(patients=3, seed=5), "new"))
    assert scored(run, more) == ("newp00", "newp01", "newp02", *split.test)
    # Of its own data in another order, too.
    order = np.random.default_rng(0).permutation(len(COHORT))
    shuffled = Cohort(
        *(getattr(COHORT, n)[order] for n in ("images", "masks", "patient_ids", "slice_index")),
        name=COHORT.name,
        channels=COHORT.channels,
    )
    assert scored(run, shuffled) == split.test
    assert evaluate_folder(run.path, shuffled)["auprc"] == run.summary()["test"]["auprc"]


def test_another_size_of_its_data(run, split):
    larger = COHORT.resize(64)
    assert scored(run, larger) == split.test
    with pytest.raises(ValueError, match=r"64x64 pixels, image_size is 32"):
        evaluate_folder(run.path, larger)
    assert evaluate_folder(run.path, SliceData(larger))["patients"] == 2


def test_nothing_left_is_an_error(run, split):
    for patients in (split.train, split.val, (*split.train, *split.val)):
        for cohort in (COHORT.select(patients), renamed(COHORT.select(patients))):
            with pytest.raises(ValueError, match=r"no patient is left to score \(0 patients sc"):
                evaluate_folder(run.path, cohort)


def test_parts_of_patients_under_other_names_are_known(run, split):
    """A few slices of somebody, with other masks, in a folder of another name."""
    part = renamed(COHORT.select([*split.train, *split.test]))
    part = dataclasses.replace(
        part,
        images=part.images[::2],
        masks=0 * part.masks[::2],
        patient_ids=part.patient_ids[::2],
        slice_index=part.slice_index[::2],
    )
    found = evaluate_folder(run.path, part)
    assert (found["patients"], list(found["left_out"])) == (len(split.test), ["trained on"])
    assert len(found["left_out"]["trained on"]) == len(split.train)


def test_other_channels_are_refused(run):
    turned = dataclasses.replace(COHORT, channels=("c", "b", "a"))
    with pytest.raises(ValueError, match=r"channels c, b, a, .* was trained on a, b, c"):
        evaluate_folder(run.path, turned)
    with pytest.raises(ValueError, match="holds no run"):
        evaluate_folder(run.path.parent, COHORT)


def test_an_unfinished_run_says_how_far_it_is(run, tmp_path, caplog):
    folder = RunFolder(tmp_path / run.path.name)
    shutil.copytree(run.path, folder.path)
    (folder.path / "summary.json").unlink()
    folder.start_history(2)
    write_json(folder.path / "status.json", read_json(folder.path / "status.json") | {"epoch": 2})
    found = evaluate_folder(folder.path, COHORT)
    assert found["run"] == "epoch 2 of 4, not finished"
    assert (found["threshold"], found["patients"]) == (0.5, 2)
    assert "epoch 2 of 4, not finished; its best epoch so far is taken" in caplog.text
    with pytest.raises(ValueError, match=r"holds no finished run .epoch 2 of 4, not finished"):
        read_trained(folder.path, finished=True)


@pytest.fixture
def earlier(run, tmp_path) -> RunFolder:
    """The run as version 0.1 kept it: a flat configuration, no split, best in the checkpoints."""
    folder = RunFolder(tmp_path / "cnn_500k_old")
    folder.path.mkdir()
    config = dict(run.config()["config"])
    data = config.pop("data")
    flat = config | {name: data[name] for name in ("image_size", "channel_order", "augment")}
    record = flat | {"data": data["cohort"], "digest": run.config()["digest"], "fp4jax": "0.1.0"}
    write_json(folder.path / "config.json", record)
    write_json(folder.path / "summary.json", flat | {"data": data["cohort"]} | run.summary())
    for name in ("metrics.jsonl", "examples.npz"):
        shutil.copy(run.path / name, folder.path)
    shutil.copytree(run.path / "best", folder.checkpoints / "4" / "best")
    return folder


def test_a_folder_of_version_0_1_is_scored_on_its_own_data_alone(run, split, earlier, caplog):
    before = outcome.contents(earlier)
    assert from_json(earlier.config()) == from_json(run.config())
    found = evaluate_folder(earlier.path, COHORT)
    assert "earlier version, which kept no split" in caplog.text
    assert (found["patients"], found["auprc"]) == (2, run.summary()["test"]["auprc"])
    assert found["left_out"]["trained on"] == [*split.train]
    for other in (COHORT.select(split.test), renamed(COHORT), blobs.cohort(seed=5)):
        with pytest.raises(ValueError, match="which of these patients it was trained on cannot be"):
            evaluate_folder(earlier.path, other)
    assert outcome.contents(earlier) == before


def test_configurations_of_version_0_1():
    """As it wrote them: JSON, flat, with fields that are none any more."""
    text = """{"arch": "swin", "scale": "4m", "recipe": "full", "method": "qat", "keep": ["head"],
        "model_options": {"window": 4}, "data": "brats", "image_size": 128, "split": "fold2",
        "channel_order": null, "target": "enhancing", "modalities": ["t1c"], "patients": null,
        "slices": null, "augment": false, "folds": 5, "split_seed": 2026, "epochs": 20,
        "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.01,
        "schedule": "plateau", "loss": "bce_tversky", "seed": 3, "digest": "00", "fp4jax": "0.1"}"""
    run = from_json(json.loads(text))
    assert run.data == Slices("brats", 128, target="enhancing", modalities=("t1c",), augment=False)
    assert (run.keep, run.split, run.batch_size) == (("head",), "fold2", 16)
    assert from_json(run.to_json()) == run
    text = """{"arch": "unet", "scale": "monai", "recipe": "baseline", "keep": null, "seed": 1,
        "model_options": {"channels": "8,16", "strides": "2,"}, "weights": "gone.pt",
        "spatial_dims": 3, "modalities": ["flair"], "regions": ["whole"], "spacing": null,
        "val_share": 0.25, "test_share": 0.0, "split_seed": 7, "patch_size": [24, 24, 16],
        "foreground": 0.5, "batch_size": 4, "steps": 9, "epochs": 3, "validate_every": 2,
        "loss": "ce_dice", "schedule": "constant", "augment": "nnunet", "dtype": "bfloat16",
        "overlap": 0.25, "windows": 2, "digest": "00", "channels": ["flair"], "fp4jax": "0.1"}"""
    run = from_json(json.loads(text))
    volumes = {"modalities": ("flair",), "regions": ("whole",), "augment": "nnunet", "steps": 9}
    sizes = {"patch_size": (24, 24, 16), "val_share": 0.25, "test_share": 0.0, "overlap": 0.25}
    assert run.data == Volumes(**volumes, **sizes)
    assert (run.dtype, run.validate_every, run.early_stopping) == ("bfloat16", 2, "none")
    assert from_json(run.to_json()) == run
    with pytest.raises(ValueError, match="no configuration of a run"):
        from_json({"epochs": 3})
