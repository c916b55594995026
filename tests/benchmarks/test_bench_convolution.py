"""The benchmark of crossovers runs, at toy sizes: what it prints is not tested."""

import dataclasses

import pytest

from benchmarks import bench_convolution
from fp4jax.ops.convolution import cpu


@pytest.mark.parametrize("name", ["few_positions", "attention"])
def test_both_forms_are_timed(name):
    kept = cpu.CROSSOVERS
    (row,) = bench_convolution.rows(name, rounds=1, sizes=(2,))
    assert row.ratio > 0
    assert cpu.CROSSOVERS is kept


def test_every_crossover_is_measured():
    names = {field.name for field in dataclasses.fields(cpu.Crossovers)}
    assert bench_convolution.SETTINGS.keys() == bench_convolution.SIZES.keys() == names
