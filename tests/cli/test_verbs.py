"""The commands: what they print, their exit codes, and what they leave behind."""

import json
import runpy
import sys
from pathlib import Path

import pytest

COMMANDS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run("train", "--arch", "cnn") -> (exit code, standard output, standard error)"""

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.chdir(tmp_path)
        code = 0
        try:
            runpy.run_path(str(COMMANDS / f"{name}.py"), run_name="__main__")
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("name", ["train", "evaluate", "data", "diagnose", "study"])
def test_help_explains_every_option(name, run):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"fp4jax {name}" in out


TINY = ["--model-options", "stages", "2", "channels", "16", "--image-size", "32", "--no-augment"]
FEW = ["--patients", "12", "--slices", "4"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--arch", "resnet"], "known names: cnn, vit, swin"),
        (["--scale", "1b"], "its scales are: 500k, 4m, 15m"),
        (["--recipe", "fp5"], "known"),
        (["--data", "lgg"], "pass --root"),
        (["--data", "lgg", "--root", "nowhere"], "nowhere"),
        (["--data", "phantom", "--root", "."], "leave it out"),
        (["--split", "fold9"], "5 folds"),
        (["--learning-rate", "-1"], "must be positive"),
        (["--keep", "nothing"], "matches no layer"),
        (["--loss", "hinge"], "known names"),
        (["--arch", "cnn", "--image-size", "40"], "40"),
        (["--batch-size", "0"], "at least 1"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_exit_code_2(arguments, says, run, tmp_path):
    few = () if "--data" in arguments else FEW
    code, _, err = run("train", *few, "--image-size", "32", *arguments)
    assert code == 2
    assert says in err
    # tyro frames what it finds itself; our own errors are one line
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_dry_run_computes_nothing(run, tmp_path):
    code, out, _ = run("train", "--dry-run", "--arch", "cnn", *TINY, "--recipe", "5")
    assert code == 0
    for word in ("encoders.1", "2d+rht+sr", "high precision", "GMAC", "MB", "parameters"):
        assert word in out
    assert not list(tmp_path.iterdir())


def test_train_evaluate_and_repeat(run, tmp_path):
    arguments = ["--arch", "cnn", *TINY, *FEW, "--epochs", "2", "--batch-size", "8"]
    code, out, _ = run("train", *arguments, "--seeds", "1", "2")
    assert code == 0
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    summary = json.loads((folders[0] / "summary.json").read_text())
    assert summary["seed"] == 1
    assert (folders[0] / "predictions.png").read_bytes()[:4] == b"\x89PNG"
    assert len((folders[0] / "metrics.jsonl").read_text().splitlines()) == 2
    written = {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")}
    assert run("train", *arguments, "--seeds", "1", "2") == (0, out, "")
    assert {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")} == written
    # Data and size are the run's.
    code, out, _ = run("evaluate", folders[0])
    assert code == 0
    assert json.loads(out)["auprc"] == summary["test"]["auprc"]
    # Of more patients only those that it has not seen; the first folder does not stop the others.
    code, out, err = run("evaluate", tmp_path, folders[0], "--patients", "14")
    assert (code, "holds no run" in err) == (2, True)
    found = json.loads(out)
    assert found["patients"] == 2 + summary_patients(folders[0], "test")
    assert len(found["left_out"]["trained on"]) == summary_patients(folders[0], "train")


def summary_patients(folder, part: str) -> int:
    return len(json.loads((folder / "split.json").read_text())[part])


def test_a_run_that_diverges_says_where(run, tmp_path):
    code, _, err = run(
        "train", "--arch", "cnn", *TINY, *FEW, "--learning-rate", "1e38", "--schedule", "constant"
    )
    assert code == 1
    assert "at step" in err
    assert not list(tmp_path.rglob("summary.json"))


def test_data_shows_and_verifies(run, tmp_path):
    small = [*FEW, "--image-size", "32"]
    code, out, _ = run("data", *small, "--fingerprint", "f.json", "--picture", "p.png")
    assert code == 0
    assert json.loads(out)["patients"] == 12
    assert (tmp_path / "p.png").exists()
    assert run("data", *small, "--expected", "f.json")[1].endswith("nothing differs\n")
    code, _, err = run("data", *small, "--fingerprint", "f.json")
    assert (code, "exists" in err) == (2, True)
    other = ["--patients", "11", "--slices", "4", "--image-size", "32", "--expected", "f.json"]
    code, _, err = run("data", *other)
    assert (code, "phantom_0011" in err) == (2, True)


def test_a_study_reports_and_is_not_repeated(run, tmp_path):
    options = ["--archs", "cnn", "--recipes", "0", "1", *TINY, *FEW, "--epochs", "1"]
    options += ["--methods", "qat", "ptq", "--calibrate", "None"]
    code, out, _ = run("study", "demo", *options, "--out", "s")
    assert code == 0
    assert "full" in out
    table = (tmp_path / "s/tables/runs.csv").read_text().splitlines()
    assert len(table) == 4  # a header, two of QAT, one of PTQ
    page = (tmp_path / "s/report.html").read_text()
    assert "0.6 to 1" in page  # what the preset expects
    code, out, _ = run("study", "demo", *options, "--out", "s")
    assert code == 0
    assert "nothing was trained" in out


def test_studies_are_listed_before_they_are_run(run, tmp_path):
    code, out, _ = run("study", "paper-seeds", "--dry-run")
    assert (code, len(out.splitlines())) == (0, 2 * 3 * 8 * 10)
    assert not list(tmp_path.iterdir())


def test_a_failed_run_is_named(run, tmp_path):
    options = ["--archs", "cnn", "--recipes", "0", *TINY, *FEW, "--epochs", "1"]
    bad = ["--methods", "qat", "--learning-rate", "1e38", "--schedule", "constant"]
    code, out, err = run("study", "demo", *options, *bad, "--out", "s")
    assert code == 1
    assert "failed: cnn_500k_baseline" in err
    assert "DivergedError" in err
    assert out.startswith("data: phantom, 12 patients")
    assert not (tmp_path / "s/report.html").exists()
    (record,) = tmp_path.rglob("failed.json")
    assert "at step 1" in json.loads(record.read_text())["traceback"]
