"""The table as text, CSV, JSON and rules."""

import csv
import dataclasses

import pytest

from fp4jax.nnx import SensitivityRow, SensitivityTable
from fp4jax.ops.recipe import get_recipe
from fp4jax.ops.rules import Rules

ROWS = (
    SensitivityRow("stem", "all", 90, 0.5, 0.25, 0.125, 0.9),
    SensitivityRow("stem", "fprop.x", 90, 0.25, 0.25, 0.125, 0.9),
    SensitivityRow("head", "all", 10, 0.125, -1.0, 0.5, 0.8),
)
TOGETHER = SensitivityRow("(all layers)", "all", 100, 1.5, 2.0, 0.75, 0.7)
TABLE = SensitivityTable(
    ROWS, TOGETHER, get_recipe("2d+rht+sr"), "kl", {"loss": 1.25}, 200, kept=("idle",)
)


def test_json_keeps_all(tmp_path):
    own = dataclasses.replace(get_recipe(1), name="own", wgrad=(None, None))
    for table in (TABLE, dataclasses.replace(TABLE, recipe=own)):
        table.write(tmp_path / "a.json")
        assert SensitivityTable.read(tmp_path / "a.json") == table
    with pytest.raises(ValueError, match="there is no file"):
        SensitivityTable.read(tmp_path / "b.json")
    with pytest.raises(ValueError, match=r"a.txt is neither .csv nor .json"):
        TABLE.write(tmp_path / "a.txt")


def test_csv_has_a_line_for_each_row(tmp_path):
    TABLE.write(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["layer"], line["operand"]) for line in lines] == [
        ("stem", "all"),
        ("stem", "fprop.x"),
        ("head", "all"),
        ("(all layers)", "all"),
    ]
    assert (lines[0]["gradient"], lines[0]["score"]) == ("0.125", "")


def test_text():
    assert str(TABLE).splitlines() == [
        "layer         multiply-adds     kl  loss  gradient  cosine",
        "stem             90 (45.0%)    0.5  0.25     0.125     0.9",
        "head              10 (5.0%)  0.125    -1       0.5     0.8",
        "(all layers)    100 (50.0%)    1.5     2      0.75     0.7",
        "each layer alone under 2d+rht+sr; float model: loss 1.25",
    ]


def test_rules_keep_what_was_not_to_be_quantized():
    assert TABLE.rules(("head$",)) == Rules.make({"head$": None, "idle$": None, ".*": "2d+rht+sr"})
    assert TABLE.cost(ROWS[2]) == 0.125
    assert dataclasses.replace(TABLE, metric="loss").cost(ROWS[2]) == 0


def test_operands_have_names():
    with pytest.raises(ValueError, match=r"operand is 'x'; allowed: all, fprop\.x"):
        SensitivityRow("stem", "x", 1, 0.0)
