"""Keep lists over folds: each fold trains with what its own training patients proposed."""

import csv
from types import SimpleNamespace

import pytest

from fp4jax.cli.presets import PRESETS
from fp4jax.cli.program import load
from fp4jax.cli.verbs import keep_lists
from fp4jax.nnx import SensitivityRow, SensitivityTable
from fp4jax.ops.recipe import get_recipe
from fp4jax.ops.rules import Rules
from fp4jax.train import RunFolder, SliceData, Slices
from tests import fabricated_runs

LAYERS = ("encoders.0", "encoders.1", "decoders.0", "decoders.3")


def table_of(path, *_, **__):
    """The costliest layer is another one in each fold."""
    fold = int(path.name.split("fold")[1][0])
    rows = tuple(
        SensitivityRow(name, "all", 30 if name == "encoders.1" else 10, float(i == fold))
        for i, name in enumerate(LAYERS)
    )
    return SensitivityTable(rows, rows[0], get_recipe("full"), "kl", {}, 60)


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """(recipe, split) of each run that was asked for; runs are fabricated."""
    asked = []

    def execute(study, data, out, **options):
        assert options["synthetic"]
        folders = []
        for run in study.runs():
            asked.append((run.recipe, run.split))
            options = {"arch": run.arch, "split": run.split, "seed": run.seed}
            made = fabricated_runs.run(
                out, fabricated_runs.cohort(), recipe=run.recipe, epochs=1, **options
            )
            folders.append(RunFolder(made))
        return SimpleNamespace(folders=tuple(folders), failures=())

    monkeypatch.setattr(keep_lists, "execute", execute)
    monkeypatch.setattr(keep_lists, "sensitivity_of_run", table_of)
    data = SliceData(fabricated_runs.cohort())
    monkeypatch.setattr(Slices, "open", lambda *_: data)
    options = ["--archs", "cnn", "--splits", "fold0", "fold2", "--seeds", "1", "2"]
    options += ["--methods", "qat", "--budget", "0.8", "--out", str(tmp_path)]
    load("keep-lists").run(options)
    return asked


def test_each_fold_has_its_own_list(executed, tmp_path, capsys):
    assert [split for _, split in executed[:4]] == ["fold0", "fold0", "fold2", "fold2"]
    proposed = [
        (split, [layer for layer in LAYERS if recipe.of(layer) is None])
        for recipe, split in executed
        if isinstance(recipe, Rules) and any(recipe.of(layer) is None for layer in LAYERS)
    ]
    assert proposed == 2 * [("fold0", ["encoders.0"])] + 2 * [("fold2", ["decoders.0"])]
    with (tmp_path / "keep_lists_full.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kept in high precision"] for row in rows] == [
        "everything",
        "nothing",
        "the model's own",
        "proposed at 0.8",
    ]
    assert rows[3]["multiply-adds in FP4"] == "83.3%"
    assert len(rows[3]["each run minus its baseline"].split()) == 4
    assert [row["layers kept"] for row in rows] == [
        "all",
        "none",
        "encoders.0 decoders.3",
        "fold0: encoders.0; fold2: decoders.0",
    ]
    with (tmp_path / "keep_lists_full_layers.csv").open() as file:
        costs = [row for row in csv.DictReader(file) if row["proposed"] == "True"]
    assert [(row["split"], row["layer"]) for row in costs] == [
        ("fold0", "encoders.0"),
        ("fold2", "decoders.0"),
    ]
    with (tmp_path / "keep_lists_full_patients.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert len({(row["label"], row["split"], row["seed"], row["patient"]) for row in scores}) == 48
    with (tmp_path / "keep_lists_full_contrasts.csv").open() as file:
        pairs = [row for row in csv.DictReader(file) if row["metric"] == "auprc"]
    assert len(pairs) == 6
    assert {row["a"] for row in pairs} >= {"baseline", "nothing", "proposed at 0.8"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "brats-cv"], "is of volumes"),
        (["--preset", "none"], "allowed: demo"),
        (["--preset", "attention-demo"], "has 3 attentions (none, attention_naive, attention_qat)"),
        (
            ["--preset", "paper-seeds"],
            "has 3 scales (500k, 4m, 15m), and",
        ),
        (["--archs", "cnn", "none"], "none"),
        (["--recipe", "none"], "none"),
        (["--budget", "1.5"], "budget is 1.5"),
        (["--batches", "0"], "batches is 0"),
        (["--splits", "fold9"], "fold9"),
    ],
)
def test_what_it_does_not_take_is_refused_before_any_training(options, said, monkeypatch, capsys):
    monkeypatch.setattr(keep_lists, "execute", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(Slices, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(SystemExit) as ended:
        load("keep-lists").run(options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_other_presets_of_slices_are_taken():
    for name in ("demo", "lgg-cpu", "lgg-cv-cpu", "paper-holdout", "paper-cv"):
        args = keep_lists.Args(preset=name, splits=("cv",), seeds=(1, 2))
        studies = keep_lists.baselines_of(args, PRESETS[name]().study)
        assert [len(study.runs()) for study in studies] == [10, 10]
