"""The self-check before a kernel's first use: outside of traces, once, and warned of once."""

import warnings

import jax
import jax.numpy as jnp
import pytest

from fp4jax.kernels import backend, first_use

FAMILY = "the kernels of a test"


@pytest.fixture(autouse=True)
def forgotten():
    first_use.forget(FAMILY)
    yield
    first_use.forget(FAMILY)


def objection(case, check, **options):
    return first_use.objection(FAMILY, case, check, instead="XLA computes it.", **options)


def test_a_kernel_that_passes_is_tried_once():
    tried = []
    for _ in range(2):
        assert objection("a", lambda: tried.append("a")) is None
    assert objection("b", lambda: tried.append("b")) is None
    assert tried == ["a", "b"]


def test_a_failure_rules_the_family_out_and_is_warned_of_once():
    assert objection("a", lambda: None) is None
    message = "the kernels of a test failed its self-check on cpu: 3 values differ. XLA computes it"
    with pytest.warns(RuntimeWarning, match=message):
        found = objection("b", lambda: "3 values differ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in ("a", "b", "c"):
            assert objection(case, lambda: None) == found
    first_use.forget(FAMILY)
    assert objection("b", lambda: None) is None


def test_an_exception_is_a_failure():
    def crash():
        raise RuntimeError("illegal instruction")

    with pytest.warns(RuntimeWarning, match=r"cannot run \(RuntimeError: illegal instruction\)"):
        assert objection("a", crash) is not None


def test_a_check_runs_outside_of_the_trace():
    values = []

    def check():
        values.append(float(jnp.ones(3).sum()))

    @jax.jit
    def traced(x):
        assert objection("a", check) is None
        return x

    traced(jnp.ones(()))
    assert values == [3.0]


def test_a_caution_is_given_once():
    with pytest.warns(RuntimeWarning, match="never executed"):
        assert objection("a", lambda: None, caution="never executed") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert objection("a", lambda: None, caution="never executed") is None


def test_a_gpu_that_is_not_at_hand(monkeypatch):
    assert "compute capability 9.0 here" in str(first_use.not_at_hand((9, 0)))
    monkeypatch.setattr(backend, "local_capability", lambda: (9, 0))
    assert first_use.not_at_hand((9, 0)) is None
    assert "8.0 or more" in str(first_use.not_at_hand(None))
