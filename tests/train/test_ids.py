"""Ids of runs: all that their numbers depend on, and nothing else."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from fp4jax import Recipe, TensorSpec
from fp4jax.data import Split
from fp4jax.study import Study
from fp4jax.train import (
    RunConfig,
    Slices,
    config as configs,
    from_json,
    read_trained,
    train,
)
from fp4jax.train.member import member_of
from tests import blobs

COHORT = blobs.cohort()
STATIC = Recipe(name="static", fprop=(TensorSpec(amax="static"), TensorSpec()))


def id_of(run: RunConfig, cohort=COHORT, split=None) -> str:
    return member_of(run, run.data.bind(cohort), Path(), split).folder.path.name


def test_a_name_says_what_it_is_and_a_hash_the_rest():
    run = blobs.config(seed=7, split="fold2")
    name, hashed = id_of(run).rsplit("_", 1)
    assert name == "cnn_500k_2d-rht-sr_blobs_fold2_s7"
    assert len(hashed) == 10
    assert id_of(run, blobs.cohort()) == id_of(run)
    student = dataclasses.replace(run, method="qad")
    assert id_of(student).startswith("cnn_500k_qad-2d-rht-sr_blobs_fold2_s7_")


def test_folds_have_one_name():
    for written in ("fold0", "fold00", "fold000"):
        run = RunConfig(split=written)
        assert (run.split, run.fold) == ("fold0", 0)
    assert id_of(blobs.config(split="fold02")) == id_of(blobs.config(split="fold2"))


@pytest.mark.parametrize(
    "changes", [{"clip": 2.0}, {"folds": 4}, {"split_seed": 1}, {"augment": True}, {"patients": 3}]
)
def test_options_count(changes):
    assert id_of(blobs.config(**changes)) != id_of(blobs.config())


def test_options_of_scales_count_once_they_are_given():
    """Runs of earlier versions, whose records do not have them, keep their ids."""
    known = id_of(blobs.config())
    record = blobs.config().to_json()
    asked = {"calibrate": "max", "running_amax": 0.9, "warm_start_steps": 3}
    assert not record.keys() & {*asked, "calibration_batches"}
    ids = {id_of(run) for run in (blobs.config(**{k: v}) for k, v in asked.items())}
    assert len({known, *ids}) == 4
    run = blobs.config(calibrate="mse", calibration_batches=3)
    assert id_of(run) != id_of(blobs.config(calibrate="mse"))
    assert from_json(run.to_json()) == run
    assert run.teacher() == blobs.config().teacher()
    study = Study(recipes=("0", "1"), methods=("qat", "ptq"), warm_start_steps=3)
    assert [run.warm_start_steps for run in study.runs()] == [0, 3, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"running_amax": -1.0}, "running_amax is -1.0; give the decay of an average"),
        ({"running_amax": 0.9, "calibrate": "max"}, "whose scales are static already; leave one"),
        ({"calibrate": "best"}, "calibrate is 'best'; allowed: max, percentile, mse"),
        ({"calibrate": "max", "recipe": "baseline"}, "the recipe gives no x a tensor scale"),
        ({"calibrate": "max", "recipe": "forward_only+lsq"}, "amaxes are learned, and static"),
        ({"calibration_batches": 3}, "calibration_batches is 3, but nothing is calibrated; give"),
        ({"arch": "cnn", "attention": "attention_qat"}, "'attention_qat', but cnn has none; leave"),
        ({"calibration_batches": 0}, "calibration_batches is 0; it must be at least 1"),
        ({"warm_start_steps": -1}, "warm_start_steps is -1; it must not be negative"),
        ({"warm_start_steps": 2, "method": "ptq"}, "but the method ptq takes no step; leave"),
        ({"calibrate": "max", "recipe": "mxfp4_full"}, "the recipe gives no x a tensor scale"),
        ({"recipe": {".*": STATIC.to_json()}}, "has amax='static' for x, which a training does"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_scales_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        blobs.config(**changes)


def test_data_split_and_numerics_count(monkeypatch):
    run, p = blobs.config(), COHORT.patients
    known = id_of(run)
    assert id_of(run, blobs.cohort(seed=1)) != known
    one, other = Split(p[:8], p[8:10], p[10:]), Split(p[4:], p[:2], p[2:4])
    assert len({known, id_of(run, split=one), id_of(run, split=other)}) == 3
    # The same patients, however they were chosen.
    usual = run.data.bind(COHORT).split(run)
    assert id_of(run, split=dataclasses.replace(usual, name="mine")) == known
    monkeypatch.setattr(configs, "NUMERICS", configs.NUMERICS + 1)
    assert id_of(run) != known


def test_plugins_and_where_weights_lie_do_not_count(tmp_path):
    assert id_of(blobs.config(plugins=("json",))) == id_of(blobs.config())
    path, moved = tmp_path / "a.npz", tmp_path / "b.npz"
    path.write_bytes(b"1")
    shutil.copy(path, moved)
    one, same = (blobs.config(weights=file, scale="500k") for file in (path, moved))
    assert id_of(one) == id_of(same) != id_of(blobs.config())
    path.write_bytes(b"22")
    assert id_of(one) != id_of(same)


@pytest.mark.slow
def test_runs_on_two_given_splits_are_two_runs(tmp_path):
    run, p = blobs.config(recipe="baseline", epochs=1), COHORT.patients
    splits = Split(p[:8], p[8:10], p[10:]), Split(p[4:], p[:2], p[2:4])
    folders = [train(run, COHORT, tmp_path, split=split)[0] for split in splits]
    for folder, split in zip(folders, splits, strict=True):
        assert set(folder.summary()["test_patients"]) == set(split.test)
        assert read_trained(folder.path).split.train == split.train


def test_a_folder_of_another_run_is_refused(tmp_path):
    run = blobs.config(epochs=1, recipe="baseline")
    member = member_of(run, run.data.bind(COHORT), tmp_path)
    record = json.loads(json.dumps(member.identity))
    record["config"]["clip"] = 2.0
    member.folder.create(record)
    with pytest.raises(ValueError, match="holds another run"):
        train(run, COHORT, tmp_path)


def test_what_does_not_fit_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"32x32 pixels, image_size is 64"):
        train(blobs.config(image_size=64), COHORT, tmp_path)
    with pytest.raises(ValueError, match="matches no layer"):
        train(blobs.config(keep=("nothing",)), COHORT, tmp_path)
    with pytest.raises(ValueError, match="known names"):
        RunConfig(Slices("blobs"), arch="resnet")
    assert not list(tmp_path.iterdir())


def test_rules_are_a_recipe():
    rules = {r"encoders\.": "2d+rht+sr", "decoders": "full", ".*": None}
    run = blobs.config(recipe=rules)
    assert from_json(json.loads(json.dumps(run.to_json(), sort_keys=True))) == run
    assert run.recipe_name.startswith("rules-")
    assert f"_{run.recipe_name}_" in id_of(run)
    turned = blobs.config(recipe=dict(reversed(rules.items())))
    assert id_of(turned) != id_of(run) == id_of(blobs.config(recipe=list(rules.items())))
    with pytest.raises(ValueError, match="method qad compares with baseline"):
        blobs.config(recipe={".*": None}, method="qad")


def test_a_crossed_fold_tests_whom_the_fold_validates_with():
    data = blobs.config().data.bind(blobs.cohort())
    fold, crossed = (data.split(blobs.config(split=s)) for s in ("fold1", "fold01_swapped"))
    assert (crossed.train, crossed.val, crossed.test) == (fold.train, fold.test, fold.val)
    study = Study(blobs.config().data, archs=("cnn",), recipes=("full",), splits=("cv_crossed",))
    tested = [p for run in study.runs() for p in data.split(run).test]
    assert sorted(tested) == sorted(data.patients)
