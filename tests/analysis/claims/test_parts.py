"""What one comparison says of a part of a claim."""

import pytest

from fp4jax.analysis.claims.parts import (
    CONFIRMED,
    NOT_CONFIRMED,
    OPEN,
    Part,
    equal,
    least_of,
    more,
    part_of,
)

DIFFERS, EQUIVALENT, WITHIN = "differs", "equivalent", "differs, within margin"


def row(low, high, verdict="no difference shown", **values):
    interval = {"ci_low": low, "ci_high": high, "difference": (low + high) / 2}
    interval |= {"error": 0.01, "freedom": 4}
    names = {"a": "full", "b": "baseline", "arch": "cnn", "scale": "500k"}
    return {**interval, "verdict": verdict, "folds": 5, "of_folds": 5, **names, **values}


@pytest.mark.parametrize(
    ("low", "high", "verdict", "sign", "says"),
    [
        (0.03, 0.05, DIFFERS, 1, CONFIRMED),
        (0.03, 0.05, "no difference shown", 1, OPEN),
        (-0.01, 0.05, DIFFERS, 1, OPEN),
        (-0.05, -0.03, DIFFERS, 1, NOT_CONFIRMED),
        (-0.05, -0.03, DIFFERS, -1, CONFIRMED),
        (-0.01, 0.01, EQUIVALENT, 1, NOT_CONFIRMED),
        (0.005, 0.015, WITHIN, 1, NOT_CONFIRMED),
    ],
)
def test_more(low, high, verdict, sign, says):
    assert more(row(low, high, verdict), sign) == says


@pytest.mark.parametrize(
    ("low", "high", "verdict", "says"),
    [
        (-0.01, 0.01, EQUIVALENT, CONFIRMED),
        (0.005, 0.015, WITHIN, CONFIRMED),
        (-0.01, 0.05, "no difference shown", OPEN),
        (0.03, 0.05, "no difference shown", NOT_CONFIRMED),
        (-0.05, -0.03, "no difference shown", NOT_CONFIRMED),
        (0.01, 0.05, DIFFERS, NOT_CONFIRMED),
    ],
)
def test_equal(low, high, verdict, says):
    assert equal(row(low, high, verdict)) == says


def test_without_all_folds_nothing_is_decided():
    part = Part(5, "b", "recipe 5 costs more", "500k", lacks="everything")
    assert part_of(part, [], more) == part
    found = part_of(part, [row(0.03, 0.05, DIFFERS, folds=3)], more)
    assert (found.verdict, found.lacks) == (OPEN, "2 of 5 folds")
    # Student's t with 4 degrees of freedom: 2.132 standard errors about 0.04.
    assert (found.low_90, found.high_90) == pytest.approx((0.01868, 0.06132), abs=1e-5)
    found = part_of(part, [row(-0.05, -0.03, DIFFERS)], lambda one: more(one, -1), sign=-1)
    assert (found.verdict, found.lacks, found.low, found.high) == (CONFIRMED, "", 0.03, 0.05)


@pytest.mark.parametrize(
    ("intervals", "says"),
    [
        ([(0.1, 0.2), (0.05, 0.3)], CONFIRMED),
        ([(0.1, 0.2), (-0.05, 0.3)], OPEN),
        ([(0.1, 0.2), (-0.3, -0.1)], NOT_CONFIRMED),
        ([(0.1, 0.2), None], OPEN),
    ],
)
def test_the_least_variance_decides(intervals, says):
    rows = [
        one and {"low": one[0], "high": one[1], "variance": 0.1, "source": "arch", "scale": "500k"}
        for one in intervals
    ]
    assert least_of(Part(1, "a", "varies more", "500k", lacks="Swin"), rows).verdict == says
