"""The sensitivity of a run: its command, what it writes, and the rules that a run takes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fp4jax.analysis.sensitivity import draw, propose
from fp4jax.analysis.sensitivity.of_run import auprc, auprc_of_classes, sensitivity_of_run
from fp4jax.cli.options import RunOptions, SliceOptions
from fp4jax.nnx import Report, SensitivityTable, report
from fp4jax.train import RunConfig, Slices, Source
from fp4jax.train.program import build
from tests import blobs
from tests.finished_runs import finished

TASK = Slices("phantom", image_size=16, patients=20, slices=4, augment=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    config = RunConfig(TASK, arch="cnn", model_options=blobs.TINY, batch_size=16, epochs=1)
    return finished(tmp_path_factory.mktemp("runs"), config, TASK.open(Source()))


RECORD: dict[str, Any] = {"operand": "all", "multiply_adds": 1, "kl": 0.0}


def table_of(costs: dict[str, tuple[int, float]], recipe: str = "full") -> SensitivityTable:
    """A table by layers' (multiply-adds, kl)."""
    rows = [
        {**RECORD, "layer": name, "multiply_adds": amount, "kl": kl}
        for name, (amount, kl) in costs.items()
    ]
    total = sum(amount for amount, _ in costs.values())
    record = {"rows": rows, "together": {"layer": "(all layers)", **RECORD}, "recipe": recipe}
    rest = {"metric": "kl", "reference": {}, "multiply_adds": total, "kept": []}
    return SensitivityTable.from_json(record | rest)


def run_with(rules: str) -> Report:
    """What a run's network does under ``--recipe @FILE``."""
    options = RunOptions(SliceOptions(**vars(TASK)), arch="cnn", recipe=rules, batch_size=16)
    config = dataclasses.replace(
        options, model_options={k: str(v) for k, v in blobs.TINY.items()}
    ).config()
    network = build(config, 3, 1, 0)
    network.eval()
    return report(network, np.zeros((1, 16, 16, 3), np.float32))


def test_a_proposal_is_a_recipe_that_a_run_takes(tmp_path):
    amounts = {layer.path: layer.products[0].multiply_adds for layer in run_with("full").layers}
    assert list(amounts) == ["decoders.0", "decoders.1", "encoders.0", "encoders.1"]
    table = table_of({name: (a, 1.0 + i) for i, (name, a) in enumerate(amounts.items())})
    proposal = propose(table, 0.7)
    made = run_with(f"@{proposal.write(tmp_path)}")
    share = made.fp4_multiply_adds / made.multiply_adds
    assert 0.7 <= share < 1
    assert f"({share:.1%} of all)" in str(proposal)
    kept = [layer.path for layer in made.layers if layer.precision == "high precision"]
    assert kept
    assert str(proposal).endswith(f"keep in high precision: {', '.join(kept)}")


@pytest.mark.slow  # a gradient of a network is compiled, which test_measuring does of a small one
def test_the_command_writes_tables_a_picture_and_rules(folder, diagnose):
    code, out, err = diagnose(
        folder, "--sensitivity", "--recipes", "forward_only", "--batches", "1", "--budget", "0.7"
    )
    assert (code, err) == (0, "")
    assert (folder / "sensitivity_forward_only.png").read_bytes()[:4] == b"\x89PNG"
    assert len((folder / "sensitivity_forward_only.csv").read_text().splitlines()) == 4 * 3 + 2
    table = SensitivityTable.read(folder / "sensitivity_forward_only.json")
    assert table.metric == "kl"
    assert 0 < table.reference["score"] < 1
    layers = [row.layer for row in table.layers]
    assert layers == ["encoders.0", "encoders.1", "decoders.0", "decoders.1"]
    assert all(row.kl > 0 and row.gradient and row.gradient > 0 for row in table.layers)
    made = run_with(out.split("--recipe ")[1].strip())
    assert made.fp4_multiply_adds >= 0.7 * made.multiply_adds
    assert f"({made.fp4_multiply_adds / made.multiply_adds:.1%} of all)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "0.9"), "pass --sensitivity with it"),
        (("--sensitivity", "--budget", "1.5"), "--budget is 1.5; give a share"),
        (("--sensitivity", "--metric", "dice"), "invalid choice"),
    ],
)
def test_bad_options_are_one_line(diagnose, folder, arguments, message):
    code, _, err = diagnose(folder, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_an_unknown_metric(folder):
    with pytest.raises(ValueError, match="metric is 'dice'; allowed: kl, loss, gradient, auprc"):
        sensitivity_of_run(folder, TASK.open(Source()), "full", metric="dice")


def test_auprc_of_regions_and_classes():
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(2, 5, 5, 3)), rng.integers(0, 2, (2, 5, 5, 3))
    masks[..., 2] = 0  # a region that is nowhere says nothing
    each = [average_precision_score(masks[..., i].ravel(), logits[..., i].ravel()) for i in (0, 1)]
    assert auprc(logits, masks) == pytest.approx(np.mean(each))
    assert np.isnan(auprc(logits, 0 * masks))
    numbers = rng.integers(0, 3, (2, 5, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    each = [average_precision_score(numbers.ravel() == c, p[..., c].ravel()) for c in (1, 2)]
    assert auprc_of_classes(logits.astype(np.float32), numbers) == pytest.approx(np.mean(each))


def test_a_figure_without_loss_or_costs(tmp_path):
    """Of the forward pass alone, and of layers that cost nothing."""
    table = table_of({"a": (1, 0.0)})
    draw(table, tmp_path / "a.png", keep=("a$",))
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
