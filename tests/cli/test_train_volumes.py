"""The command for volumes: one line for what is asked wrongly, and what it takes as it should."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fp4jax.data import phantom
from fp4jax.data.nifti import PatchSampler
from tests.cli.test_verbs import run as run  # the fixture

TINY = ("--model-options", "channels", "8,16", "strides", "2")
SMALL = ("--arch", "unet", "--scale", "monai", "--patch-size", "24", "24", "16", "--steps", "4")
SHARES = ("--val-share", "0.2", "--test-share", "0.2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Six phantom patients in ``all``, without their labels in ``new``."""
    base = tmp_path_factory.mktemp("volumes")
    phantom.write_nifti(base / "all", patients=6, slices=20, image_size=32)
    shutil.copytree(base / "all", base / "new", ignore=shutil.ignore_patterns("*-seg.nii.gz"))
    return base


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


def test_help_explains_every_option(run):
    code, out, _ = run("train_volumes", "--help")
    assert code == 0
    assert "fp4jax train-volumes" in out


def test_dry_run_needs_no_data(run, tmp_path):
    code, out, err = run(
        "train_volumes", "--dry-run", "--arch", "cnn", "--spatial-dims", "2", "--recipe", "5",
        "--augment", "none", "--patch-size", "32", "32",
        "--model-options", "stages", "2", "channels", "16",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for word in ("encoders.1", "2d+rht+sr", "high precision", "GMAC", "MB beside"):
        assert word in out
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_is_one_line_and_exit_code_1(folders, monkeypatch, tmp_path, run):
    batch = PatchSampler.batch

    def damaged(self, epoch, step, *share):
        images, targets = batch(self, epoch, step, *share)
        return images * (np.nan if epoch else 1), targets

    monkeypatch.setattr(PatchSampler, "batch", damaged)
    source = ("--root", folders / "all", "--cache", folders / "cache")
    code, _, err = run("train_volumes", *source, *SMALL, *SHARES, "--epochs", "3", *TINY)
    assert code == 1
    assert "loss is nan at step 2 (epoch 1)" in err.splitlines()[-1]
    assert not list(tmp_path.rglob("summary.json"))


def test_the_synthetic_cohort_as_nifti(folders, tmp_path, run):
    size = ("--patients", "1", "--slices", "20", "--image-size", "32")
    assert run("data", "--nifti", "made", *size)[0] == 0
    (made,) = (tmp_path / "made").iterdir()
    for file in made.iterdir():
        assert file.read_bytes() == (folders / "all" / made.name / file.name).read_bytes()
