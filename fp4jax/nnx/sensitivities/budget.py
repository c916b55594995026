"""keep_list(table, budget): which layers to keep in high precision, a knapsack solved exactly."""

import math

import numpy as np

from fp4jax.core.spec import is_number
from fp4jax.extras import Extra
from fp4jax.nnx.sensitivities.table import SensitivityTable, exactly


def keep_list(table: SensitivityTable, budget: int | float) -> tuple[str, ...]:
    """The layers to keep in high precision, so that the share ``budget`` runs in FP4.

    Of all sets K of layers that leave enough multiply-adds in FP4, the one whose quantized layers
    cost least; with c the cost of a layer alone (:meth:`SensitivityTable.cost`) and a its
    multiply-adds in the forward pass:

        minimize    sum of c_i over the layers i that are not in K
        subject to  sum of a_i over them >= budget * sum of a_i over all layers

    It is solved exactly, as a mixed-integer linear program (``scipy.optimize.milp``); NVIDIA
    Model-Optimizer's ``auto_quantize`` minimizes the same sum by linear programming under a limit
    on bits. That costs of single layers add up is an assumption: ``table.together`` has what all
    of them really cost.

    Args:
        table: of :func:`fp4jax.nnx.sensitivity`.
        budget: share of the multiply-adds of the table's layers that stay in FP4, in (0, 1]; 1
            keeps nothing. Attentions count as layers if they were measured (``attention=``);
            products that neither computes do not.

    Returns:
        Patterns, one for each layer to keep, in the order of the table; for ``keep=`` of
        :func:`fp4jax.nnx.apply_recipe`, or ``table.rules(patterns)``.

    Raises:
        ValueError: a budget outside (0, 1], or a cost that is not finite.

    Example:
        >>> from fp4jax.nnx.sensitivities.table import SensitivityRow
        >>> from fp4jax.ops.recipe import get_recipe
        >>> rows = [("stem", 10, 5.0), ("body", 80, 1.0), ("head", 10, 9.0)]
        >>> rows = tuple(SensitivityRow(n, "all", macs, kl) for n, macs, kl in rows)
        >>> table = SensitivityTable(rows, rows[0], get_recipe("full"), "kl", {}, 100)
        >>> keep_list(table, 0.9), keep_list(table, 0.8)
        (('head$',), ('stem$', 'head$'))
    """
    if not is_number(budget) or not 0 < budget <= 1:
        raise ValueError(
            f"budget is {budget}; give the share of multiply-adds to run in FP4, above 0 and at "
            "most 1."
        )
    rows = table.layers
    costs = [table.cost(row) for row in rows]
    for row, cost in zip(rows, costs, strict=True):
        if not math.isfinite(cost):
            raise ValueError(
                f"quantizing {row.layer} alone changes {table.metric} by {cost}; keep that layer "
                "(keep=) and measure the others, or look at the values that reach it."
            )
    amounts = [row.multiply_adds for row in rows]
    # Exact where the budget is a decimal fraction: 0.9 of 10 layers may leave one.
    spare = math.floor((1 - budget) * sum(amounts) * (1 + 1e-12) + 1e-9)
    # What costs nothing, and what alone is too much, is quantized in any case.
    free = [i for i, (a, c) in enumerate(zip(amounts, costs, strict=True)) if c > 0 and a <= spare]
    chosen = _knapsack([costs[i] for i in free], [amounts[i] for i in free], spare)
    return tuple(exactly(rows[free[i]].layer) for i in chosen)


def _knapsack(values: list[float], weights: list[int], capacity: int) -> list[int]:
    """Positions of the most valuable set whose weights sum to ``capacity`` at most."""
    if sum(weights) <= capacity:
        return list(range(len(values)))
    with Extra("study"):
        from scipy.optimize import Bounds, LinearConstraint, milp

    # In units of the largest: the solver's tolerances are absolute.
    value = np.asarray(values) / max(values)
    weight = np.asarray(weights, np.float64) / capacity
    found = milp(
        -value,
        constraints=LinearConstraint(weight[None], ub=1.0),
        integrality=np.ones(len(values)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise RuntimeError(f"the knapsack of {len(values)} layers was not solved: {found.message}")
    return np.flatnonzero(found.x > 0.5).tolist()
