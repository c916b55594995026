"""keep_list: the best of all sets, by trying all of them."""

import dataclasses
import itertools

import numpy as np
import pytest

from fp4jax.nnx import SensitivityRow, SensitivityTable, keep_list
from fp4jax.ops.recipe import get_recipe


def table(amounts, costs) -> SensitivityTable:
    rows = tuple(
        SensitivityRow(f"layers.{i}", "all", int(a), float(c))
        for i, (a, c) in enumerate(zip(amounts, costs, strict=True))
    )
    return SensitivityTable(rows, rows[0], get_recipe("full"), "kl", {}, int(sum(amounts)))


def left(found: SensitivityTable, keep: tuple[str, ...]) -> tuple[int, float]:
    """Multiply-adds and costs of what is quantized."""
    rules = found.rules(keep)
    rows = [row for row in found.layers if rules.of(row.layer) is not None]
    return sum(row.multiply_adds for row in rows), sum(row.kl for row in rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [0.5, 0.9])
def test_no_set_is_better(seed, budget):
    rng = np.random.default_rng(seed)
    amounts, costs = rng.integers(1, 10**9, 12), rng.lognormal(0, 3, 12)
    found = table(amounts, costs)
    macs, cost = left(found, keep_list(found, budget))
    assert macs >= budget * amounts.sum() * (1 - 1e-9)
    best = min(
        costs @ on
        for on in (np.array(s) for s in itertools.product([0, 1], repeat=12))
        if amounts @ on >= budget * amounts.sum()
    )
    assert cost == pytest.approx(best, rel=1e-6)


def test_one_in_ten():
    """Not none, as 1 - 0.9 < 0.1 in floats would have it; patterns match one layer each."""
    found = table([10] * 11, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    assert keep_list(found, 0.9) == (r"layers\.10$",)
    assert keep_list(table([10] * 10, [3] + [1] * 9), 0.9) == (r"layers\.0$",)
    assert keep_list(found, 1) == ()
    # layers.1 does not take layers.10 along
    rules = found.rules((r"layers\.1$",))
    assert rules.of("layers.1") is None
    assert rules.of("layers.10") == get_recipe("full")


def test_what_costs_nothing_is_quantized():
    assert keep_list(table([1, 1, 98], [-1.0, 0.0, 5.0]), 0.5) == ()


@pytest.mark.parametrize("budget", [0, -0.1, 1.01, float("nan"), True])
def test_bad_budgets(budget):
    with pytest.raises(ValueError, match=r"budget is .*; give the share"):
        keep_list(table([1], [1]), budget)


def test_a_cost_that_is_not_finite():
    with pytest.raises(ValueError, match=r"quantizing layers.1 alone changes kl by inf"):
        keep_list(table([1, 1], [1, np.inf]), 0.5)
    bad = dataclasses.replace(table([1], [1]), metric="loss")
    with pytest.raises(ValueError, match="has no loss"):
        keep_list(bad, 0.5)
