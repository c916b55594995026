"""Label maps of NIfTI cases: by a run, a packed file, a checkpoint; what is refused; going on."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from flax import nnx

from fp4jax import models, predict
from fp4jax.data import phantom
from fp4jax.predict import volumes
from fp4jax.train import Listener, Options, RunConfig, Saving, Source, Volumes, train
from fp4jax.train.program import build
from tests.cli.test_verbs import run as run  # the fixture

TASK = Volumes(patch_size=(24, 24, 16), steps=4, val_share=0.2, test_share=0.2)
PATTERNS = {"flair": "*t2f.nii.gz", "t1c": "*t1c.nii.gz"}


def config(task: Volumes = TASK, **changes) -> RunConfig:
    """A stochastic recipe on a tiny U-Net."""
    options = {
        "arch": "unet",
        "scale": "monai",
        "recipe": "2d+rht+sr",
        "model_options": {"channels": (8, 16), "strides": (2,)},
        "learning_rate": 3e-3,
        "epochs": 2,
    }
    return RunConfig(task, **{**options, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Six phantom patients in ``all``, two without their labels in ``new``."""
    base = tmp_path_factory.mktemp("volumes")
    phantom.write_nifti(base / "all", patients=6, slices=20, image_size=32)
    for case in sorted((base / "all").iterdir())[:2]:
        ignored = shutil.ignore_patterns("*-seg.nii.gz")
        shutil.copytree(case, base / "new" / case.name, ignore=ignored)
    return base


@pytest.fixture(scope="module")
def trained(folders) -> Path:
    source = Source(folders / "all", folders / "cache")
    options = Options(listener=predict.Pictures(always=True, source=source))
    (folder,) = train(config(), TASK.open(source), folders / "runs", options=options)
    return folder.path


def test_a_run_has_pictures_where_they_are_asked_for(trained):
    for path in (trained / "predictions.png", *(trained / "pictures").iterdir()):
        assert path.read_bytes()[:4] == b"\x89PNG"
    names = [path.stem for path in (trained / "pictures").iterdir()]
    assert names == [p.name.split(".")[0] for p in (trained / "predictions").iterdir()]


def test_cases_are_segmented_as_they_were_scored(trained, folders, tmp_path, run):
    """By the command, with the masks and scores that the evaluation wrote."""
    (expected,) = (trained / "predictions").iterdir()
    one = folders / "all" / expected.name.removesuffix(".nii.gz")
    arguments = (trained, "--root", one, "--out", "scored", "--pictures")
    code, out, err = run("segment", *arguments)
    assert (code, err) == (0, "")
    assert out.count("mean Dice") == len(list((tmp_path / "scored").glob("*.png"))) == 1
    assert "whole_tumour" in out
    found = nibabel.load(tmp_path / "scored" / expected.name)
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(nibabel.load(expected).dataobj))
    row = (trained / "test_cases.csv").read_text().splitlines()[-1]
    assert row in (tmp_path / "scored/scores.csv").read_text().splitlines()


def test_nothing_is_replaced_unasked(trained, folders, tmp_path, run):
    arguments = (trained, "--root", folders / "new", "--cache", folders / "cache")
    code, out, err = run("segment", *arguments, "--out", "masks")
    assert (code, err, len(out.splitlines())) == (0, "", 2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").glob("*.nii.gz")}
    assert len(before) == 2
    # The same command again has nothing to do.
    assert run("segment", *arguments, "--out", "masks") == (0, out, "")
    for change in (["--overlap", "0.25"], ["--recipe", "baseline"], ["--spacing", "2", "2", "2"]):
        code, _, err = run("segment", *arguments, "--out", "masks", *change)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "and 1 more exist already" in err
        assert f"differs in {change[0].removeprefix('--')}" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (
        run("segment", *arguments, "--out", "masks", "--recipe", "baseline", "--overwrite")[0] == 0
    )
    assert all(path.stat().st_mtime_ns > time for path, time in before.items())


@pytest.mark.parametrize("explicit", [{"recipe": "baseline"}, {"overlap": 0.5}])
def test_an_option_that_is_given_counts(explicit, trained, folders, tmp_path, run, monkeypatch):
    """Also one that would be the default: the run's recipe and overlap are others."""
    used = []
    from_run, segment = predict.from_run, predict.segment_volumes

    def low(path, **options):
        network = from_run(path, **options)
        task = dataclasses.replace(network.task, overlap=0.25)
        return dataclasses.replace(network, task=task)

    def spy(network, *args, **options):
        used.append((network.about.recipe, options["reading"].overlap))
        return segment(network, *args, **options)

    monkeypatch.setattr(predict, "from_run", low)
    monkeypatch.setattr(predict, "segment_volumes", spy)
    arguments = [word for name, value in explicit.items() for word in (f"--{name}", value)]
    arguments = (trained, "--root", folders / "new", "--out", "masks", *arguments)
    assert run("segment", *arguments)[0] == 0
    (recipe, overlap), expected = used[0], {"recipe": "2d+rht+sr", "overlap": 0.25, **explicit}
    assert {"recipe": recipe, "overlap": overlap} == expected


def test_an_interrupted_command_goes_on(trained, folders, tmp_path, run, monkeypatch):
    """With what is missing; scores.csv is complete in the end, as if nothing had happened."""
    save, saved = volumes.save, []

    def interrupted(path, *args, **options):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, *args, **options)

    arguments = (trained, "--root", folders / "all", "--cache", folders / "cache")
    monkeypatch.setattr(volumes, "save", interrupted)
    code, _, err = run("segment", *arguments, "--out", "masks")
    assert (code, "repeat the command" in err) == (130, True)
    monkeypatch.setattr(volumes, "save", save)
    masks = tmp_path / "masks"
    before = {path: path.stat().st_mtime_ns for path in masks.glob("*.nii.gz")}
    assert len(before) == 2
    # As if killed while a line was written.
    journal = masks / "made_by.jsonl"
    journal.write_text(journal.read_text() + '{"job": "BraTS')
    code, out, err = run("segment", *arguments, "--out", "masks")
    assert (code, err, out.count("mean Dice")) == (0, "", 6)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run("segment", *arguments, "--out", "other")[0] == 0
    for path in (tmp_path / "other").iterdir():
        assert (masks / path.name).read_bytes() == path.read_bytes()
    # A map that was deleted is made again.
    first = next(iter(before))
    content = first.read_bytes()
    first.unlink()
    assert run("segment", *arguments, "--out", "masks")[0] == 0
    assert first.read_bytes() == content


def test_a_case_whose_files_changed_is_segmented_again(trained, folders, tmp_path):
    shutil.copytree(folders / "new", tmp_path / "new")
    network, source = predict.from_run(trained), Source(tmp_path / "new")
    first, second = predict.segment_volumes(network, source, tmp_path / "out")
    case = tmp_path / "new" / first.case
    for name in ("t2f", "t1n", "t1c", "t2w"):
        other = tmp_path / "new" / second.case / f"{second.case}-{name}.nii.gz"
        shutil.copyfile(other, case / f"{first.case}-{name}.nii.gz")
    again, same = predict.segment_volumes(network, source, tmp_path / "out")
    assert same == second
    assert again.volumes == second.volumes != first.volumes


def test_damaged_cases_are_all_named_before_anything_is_written(trained, folders, tmp_path, run):
    shutil.copytree(folders / "all", tmp_path / "all")
    damaged = sorted((tmp_path / "all").iterdir())[2:4]
    for case in damaged:
        path = case / f"{case.name}-t1c.nii.gz"
        path.write_bytes(path.read_bytes()[:1000])
    code, _, err = run("segment", trained, "--root", tmp_path / "all", "--out", "masks")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "2 of 6 cases cannot be segmented, and nothing was written" in err
    for case in damaged:
        assert f"{case.name}-t1c.nii.gz" in err
    assert not (tmp_path / "masks").exists()


def test_a_run_knows_patterns_and_label_values(folders, tmp_path, run, capsys):
    """New cases of one's own layout need --root alone; of another layout, what differs."""
    task = dataclasses.replace(TASK, patterns=PATTERNS, label="*seg.nii.gz", labels="brats2023")
    source = Source(folders / "all", folders / "cache")
    (own,) = train(config(task, epochs=1), task.open(source), tmp_path / "runs")
    capsys.readouterr()
    given = [word for pair in PATTERNS.items() for word in pair]
    for i, more in enumerate(([], ["--patterns", *given], ["--layout", "brats2023"])):
        arguments = (own.path, "--root", folders / "new", "--out", f"masks{i}", *more)
        code, _, err = run("segment", *arguments)
        assert (code, err) == (0, "")
        for path in (tmp_path / "masks0").glob("*.nii.gz"):
            assert (tmp_path / f"masks{i}" / path.name).read_bytes() == path.read_bytes()


def test_a_run_of_a_known_layout_segments_patterns(trained, folders, tmp_path, run):
    """Without labels there is no table to ask for."""
    patterns = {**PATTERNS, "t1": "*t1n.nii.gz", "t2": "*t2w.nii.gz"}
    given = [word for pair in patterns.items() for word in pair]
    arguments = (trained, "--root", folders / "new")
    assert run("segment", *arguments, "--out", "known")[0] == 0
    code, _, err = run("segment", *arguments, "--out", "own", "--patterns", *given)
    assert (code, err) == (0, "")
    for path in (tmp_path / "known").glob("*.nii.gz"):
        found = nibabel.load(tmp_path / "own" / path.name)
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(nibabel.load(path).dataobj))


def test_a_packed_run_segments_as_the_run(trained, folders, tmp_path, run):
    """4 bits per weight, from the file alone."""
    arguments = ("--save", "m.safetensors", "--rest", "float32")
    code, out, _ = run("predict", trained, *arguments)
    assert (code, "bits each" in out) == (0, True)
    about = predict.describe(tmp_path / "m.safetensors")
    assert about.create_task() == TASK
    assert about.regions == ("whole_tumour", "tumour_core", "enhancing")
    for name, model in (("run", trained), ("packed", "m.safetensors")):
        assert run("segment", model, "--root", folders / "new", "--out", name)[0] == 0
    for path in (tmp_path / "run").glob("*.nii.gz"):
        one, other = (
            np.asarray(nibabel.load(tmp_path / name / path.name).dataobj)
            for name in ("run", "packed")
        )
        assert (one == other).mean() > 0.999
    # Scored on the same patient, with the run's scores.
    found = []
    for model in (trained, "m.safetensors"):
        code, out, err = run("evaluate", model, "--root", folders / "all", "--time")
        assert (code, err) == (0, "")
        found.append(json.loads(out))
    assert found[0]["scored"] == found[1]["scored"]
    assert found[1]["regions"]["mean"]["dice"] == pytest.approx(
        found[0]["regions"]["mean"]["dice"], abs=0.01
    )
    assert found[1]["latency_ms"]["shape"] == [24, 24, 16, 4]
    code, out, _ = run("predict", "m.safetensors", "--input", folders / "new", "--out", "again")
    assert (code, out.count("whole_tumour")) == (0, 2)
    for path in (tmp_path / "packed").glob("*.nii.gz"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


class Interrupted(Listener):
    """At the end of the second epoch."""

    def epoch(self, run, record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt


def test_an_unfinished_run_is_used_and_said_to_be_so(folders, tmp_path, run):
    source = Source(folders / "all", folders / "cache")
    options = Options(listener=Interrupted(), saving=Saving(1, 0.0))
    with pytest.raises(KeyboardInterrupt):
        train(config(epochs=5), TASK.open(source), tmp_path / "runs", options=options)
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))
    code, _, err = run("segment", folder, "--root", folders / "new", "--out", "masks")
    assert (code, len(list((tmp_path / "masks").glob("*.nii.gz")))) == (0, 2)
    assert re.search(r"^warning: .* of 5, not finished", err, re.MULTILINE)


def test_a_checkpoint_is_segmented_with(trained, folders, tmp_path, run):
    """Torch's names on disk: the masks of the run that they come from."""
    network = predict.from_run(trained)
    model = build(config(), 4, 3, 0)
    nnx.update(model, *network.variables)
    np.savez(tmp_path / "weights.npz", **models.to_torch(model))
    shape = ("--arch", "unet", "--scale", "monai", "--patch-size", "24", "24", "16")
    options = ("--model-options", "channels", "8,16", "strides", "2,", "--recipe", "2d+rht+sr")
    arguments = ("--weights", "weights.npz", *shape, *options, "--root", folders / "new")
    assert run("segment", *arguments, "--out", "one")[0] == 0
    assert run("segment", trained, "--root", folders / "new", "--out", "other")[0] == 0
    for path in (tmp_path / "other").glob("*.nii.gz"):
        assert (tmp_path / "one" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["RUN"], "--root"),
        (["RUN", "--root", "nowhere"], "nowhere"),
        (["RUN", "--root", "NEW", "--patch-size", "8", "8", "8"], "--patch-size cannot be changed"),
        (["RUN", "--root", "NEW", "--arch", "unet"], "--arch cannot be changed"),
        (["RUN", "--root", "NEW", "--label", "seg*.nii.gz"], "--patterns"),
        (["RUN", "--root", "NEW", "--overlap", "1"], "0 to below 1"),
        (["RUN", "--root", "NEW", "--recipe", "fp5"], "known"),
        (["RUN", "--root", "NEW", "--modalities", "flair"], "has 4 channels"),
        (["--root", "NEW"], "--weights CHECKPOINT"),
        (["--root", "NEW", "--weights", "none.npz"], "none.npz"),
        (["NEW", "--root", "NEW"], "holds no run"),
        (["none.safetensors", "--root", "NEW"], "is no file"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments, says, trained, folders, run, tmp_path):
    known = {"RUN": trained, "NEW": folders / "new"}
    code, _, err = run("segment", *(known.get(word, word) for word in arguments))
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_explains_every_option(run):
    code, out, _ = run("segment", "--help")
    assert code == 0
    assert "fp4jax segment" in out
    assert "--patterns" in out


def test_tables_keep_what_is_not_defined(tmp_path, trained, folders):
    """NaN of an empty region is there after an interruption, too."""
    network, source = predict.from_run(trained), Source(folders / "all")
    first = predict.segment_volumes(network, source, tmp_path)
    table = (tmp_path / "scores.csv").read_text()
    again = predict.segment_volumes(network, source, tmp_path)
    assert (tmp_path / "scores.csv").read_text() == table
    assert str(again) == str(first)
    with (tmp_path / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6 * 4


def test_the_mean_of_folds_and_mirror_images(folders, tmp_path, run):
    """By the command; small components go if that is asked for, which the journal says."""
    source = Source(folders / "all", folders / "cache")
    for i in range(2):
        train(config(split=f"fold{i}", folds=2, epochs=1), TASK.open(source), tmp_path / "runs")
    runs = sorted(path for path in (tmp_path / "runs").iterdir() if path.name[0] != ".")
    arguments = (runs[1], "--folds", "--mirror", "--root", folders / "new")
    options = ("--min-component", "0.5", "--probabilities")
    code, out, _ = run("segment", *arguments, *options, "--out", "masks")
    assert (code, out.count("whole_tumour")) == (0, 2)
    record = (tmp_path / "masks/made_by.jsonl").read_text().splitlines()[0]
    for said in ('"min_component": 0.5', '"mirror": [0, 1, 2]', f"{runs[0].name} + {runs[1].name}"):
        assert said in record
    network = predict.with_mirroring(predict.together([predict.from_run(path) for path in runs]))
    (first, _) = predict.segment_volumes(network, Source(folders / "new"), tmp_path / "all")
    masks, p = (
        np.asarray(nibabel.load(tmp_path / path).dataobj)
        for path in (f"all/{first.case}.nii.gz", f"masks/{first.case}_probabilities.nii.gz")
    )
    np.testing.assert_array_equal(masks > 0, (p > 0.5).any(-1))
    small = np.asarray(nibabel.load(tmp_path / f"masks/{first.case}.nii.gz").dataobj)
    assert not (small > 0)[masks == 0].any()
