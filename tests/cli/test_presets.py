"""Named studies: sizes, what they say of themselves, data that are made; the report's command."""

import re
import sys

import pytest

from fp4jax.cli.presets import PRESETS, brats
from fp4jax.cli.verbs import report, study
from fp4jax.train import Slices, Source
from tests import fabricated_runs as fabricated

RUNS = {
    "attention-demo": 9,
    "demo": 6,
    "brats-demo": 4,
    "lgg-cpu": 42,
    "lgg-cv-cpu": 60,
    "paper-holdout": 24,
    "paper-cv": 20,
    "paper-seeds": 480,
    "brats-cv": 20,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_study_and_explains_itself(name):
    preset = PRESETS[name]()
    assert len(preset.study.runs()) == RUNS[name]
    assert study._options(preset.study).study() == preset.study
    about = PRESETS[name].__doc__ or ""
    for word in ("Reference:", "Cost:", "Expected:", f"fp4jax study {name}"):
        assert word in about
    if count := re.search(r"Cost: (\d+) runs", about):
        assert int(count[1]) == RUNS[name]
    assert {one.label for one in preset.expected} <= {r.recipe_name for r in preset.study.runs()}


def test_synthetic_volumes_are_written_once(monkeypatch, tmp_path):
    for name, value in {"_PATIENTS": 2, "_SLICES": 8, "_SIZE": 16}.items():
        monkeypatch.setattr(brats, name, value)
    monkeypatch.setenv("FP4JAX_CACHE", str(tmp_path))
    prepare = PRESETS["brats-demo"]().prepare
    source = prepare(Source())
    assert source.root.parent == tmp_path
    assert len(list(source.root.iterdir())) == 2
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare(Source()) == source
    own = prepare(Source(root=source.root))
    assert own == source
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written


def test_the_report_is_a_command(monkeypatch, tmp_path, capsys):
    root = fabricated.study(tmp_path / "runs", archs=("cnn",), labels=("baseline",), seeds=(1, 2))
    (sorted(root.iterdir())[0] / "summary.json").unlink()
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    report.VERB.run()
    out = capsys.readouterr().out
    assert out.startswith("1 runs finished, 1 open, 0 failed\ncnn_500k_baseline_phantom_holdout_s1")
    assert "epoch 6 of 6, not finished" in out
    assert (tmp_path / "report.html").exists()
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "figures")])
    with pytest.raises(SystemExit) as stop:
        report.VERB.run()
    assert stop.value.code == 2
    assert "holds no runs" in capsys.readouterr().err


def test_options_of_the_presets_own_data_go_where_other_data_are_named():
    for words in (["--data", "images"], ["--data=images"]):
        data = study._options(PRESETS["demo"]().study, words).study().data
        assert data == Slices("images", image_size=32)
    assert study._options(PRESETS["demo"]().study, ["--data", "phantom"]).data.patients == 100


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data", "lgg", "--patients", "12"], "'lgg' has no option patients"),
        (["--root", "."], "such as --data lgg"),
        (["--data", "images", "--root", "nowhere"], "nowhere"),
        (["--splits", "fold7"], "fold7"),
        (["--patients", "2", "--slices", "4"], "patients"),
    ],
)
def test_a_rehearsal_refuses_what_the_study_refuses(options, says, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        study.VERB.run(["demo", "--dry-run", *options])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
