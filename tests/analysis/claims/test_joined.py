"""Studies whose runs lie in several folders: what two have agrees and counts once."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fp4jax.analysis.claims.joined import collect, joined
from fp4jax.cli.program import load
from tests import fabricated_runs
from tests.fabricated_scores import study, without

ARCHS = ("vit", "cnn")
TABLES = ("runs", "patients", "inside")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of runs, diagnosed."""
    root = tmp_path_factory.mktemp("whole")
    options = {"splits": ("fold0",), "seeds": (1,), "labels": ("baseline", "full")}
    fabricated_runs.study(root, **options)
    for path in root.glob("*baseline*"):
        diagnosed(path, 1.0)
    return root


def diagnosed(run: Path, value: float) -> None:
    lines = ["run,state,recipe,layer,quantity,of,value", f"r,best,full,total,bias,gradient,{value}"]
    (run / "diagnosis.csv").write_text("\n".join(lines))


def part(whole: Path, to: Path, *patterns: str) -> Path:
    """A folder with some of the runs."""
    for pattern in patterns:
        for run in whole.glob(pattern):
            shutil.copytree(run, to / run.name)
    return to


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.csv").read_bytes() for name in TABLES}


def test_parts_make_the_whole(whole, tmp_path):
    collect([whole]).write(tmp_path / "whole")
    # Both have the baselines, and one was collected before.
    collect([part(whole, tmp_path / "a", "cnn*")]).write(tmp_path / "before")
    part(whole, tmp_path / "b", "[!c]*", "cnn*baseline*")
    collect([tmp_path / "b", tmp_path / "before"]).write(tmp_path / "joined")
    assert bytes_of(tmp_path / "joined") == bytes_of(tmp_path / "whole")


def test_what_was_collected_may_be_added_to_in_place(whole, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--out", str(out), "--resamples", "10"]
    load("claims").run([str(part(whole, tmp_path / "a", "cnn*")), *options])
    load("claims").run([str(out), str(part(whole, tmp_path / "b", "swin*")), *options])
    assert list(pd.read_csv(out / "runs.csv")["arch"]) == ["swin", "swin", "cnn", "cnn"]
    capsys.readouterr()


def test_of_a_run_the_last_diagnosis_is_taken(whole, tmp_path):
    part(whole, tmp_path, "cnn*baseline*")
    for run in tmp_path.iterdir():
        diagnosed(run, 2.0)
    for order, values in (([whole, tmp_path], [1.0, 2.0]), ([tmp_path, whole], [1.0, 1.0])):
        assert sorted(collect(order).inside["value"]) == values


def test_other_settings_are_refused():
    one, other = (study(patients=2, archs=(arch,), labels=("baseline",)) for arch in ARCHS)
    other.runs["image_size"] = 128
    with pytest.raises(ValueError, match=r"image_size differs \(a: 64; b: 128\): .* one study"):
        joined({"a": one, "b": other})


@pytest.mark.parametrize(
    ("table", "column", "said"),
    [
        (
            "runs",
            "test_auprc",
            "test_auprc of cnn 500k baseline qat fold0 2026 is nan in a and",
        ),
        ("patients", "f2", "f2 of cnn 500k baseline qat fold0 2026 p0_0 is .* and 0.5 in b; name"),
    ],
)
def test_other_scores_of_a_run_are_refused(table, column, said):
    one, other = (study(patients=2, archs=("cnn",), labels=("baseline",)) for _ in range(2))
    assert len(joined({"a": one, "b": other}).runs) == 5
    getattr(other, table).loc[0, column] = 0.5
    with pytest.raises(ValueError, match=said):
        joined({"a": one, "b": other})


def test_types_stay_what_they_are_beside_an_empty_table():
    one = study(patients=2, labels=("baseline",))
    both = joined({"a": without(one, arch="cnn"), "b": one})
    for name in TABLES:
        own, before = getattr(both, name), getattr(one, name)
        columns = list(before)
        own = own.sort_values(columns[:6], kind="stable", ignore_index=True)
        before = before.sort_values(columns[:6], kind="stable", ignore_index=True)
        pd.testing.assert_frame_equal(own, before)
