"""The benchmark of compiling runs at toy sizes, and every round of it compiles."""

import json

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import bench_compile
from benchmarks.compiled_programs import PROGRAMS, dot, operation, slices, volumes

DOT = operation(dot, (16, 32), (32, 16), (16, 16))


def test_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PROGRAMS, "dot", ("dot", DOT))
    file = tmp_path / "new" / "toy.json"
    bench_compile.main(bench_compile.Args(models=("dot",), recipes=("5",), rounds=1, json=file))
    (rows,) = json.loads(file.read_text())["tables"].values()
    assert [row["name"] for row in rows] == ["baseline", "2d+rht+sr"]
    assert rows[0]["ratio"] == 1 < rows[1]["ratio"]
    assert rows[0]["stablehlo"] < rows[1]["stablehlo"]
    assert all(row["trace"] > 0 < row["compile"] for row in rows)
    assert "StableHLO" in capsys.readouterr().out


@pytest.mark.parametrize(
    "program",
    [
        slices("cnn", 16, 4, stages=2, channels=16),
        volumes("unet", 8, 4, channels=(4, 8), strides=(2,), norm="batch"),
    ],
    ids=["slices", "volumes"],
)
def test_program_of_a_model_is_its_gradient(program):
    """By all parameters; batch norm's statistics come along."""
    function, arguments = program("baseline")
    (loss, stats), grads = jax.eval_shape(function, *arguments)
    assert loss.shape == ()
    assert jax.tree.leaves(stats)
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)  # noqa: E731
    assert shapes(grads) == shapes(arguments[0])


def test_every_round_compiles(tmp_path):
    """Neither what is in memory nor what is on disk makes a second round cheaper."""
    before = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()
    try:
        program = DOT("2d+rht+sr")
        first, second, third = bench_compile.measure(program, 3)
        assert not list(tmp_path.iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
        compilation_cache.reset_cache()
    assert min(second.compile, third.compile) > first.compile / 3
    assert min(second.trace, third.trace) > 0
    assert (first.stablehlo, first.hlo, first.fusions) == (
        third.stablehlo,
        third.hlo,
        third.fusions,
    )


def test_baseline_comes_first():
    assert bench_compile.Args(recipes=("5", "0", "sr")).recipes == ("baseline", "2d+rht+sr", "sr")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"models": ("unet",)}, "models has unet; allowed: cnn"),
        ({"rounds": 0}, "rounds is 0"),
        ({"recipes": ("nvfp3",)}, "nvfp3"),
    ],
)
def test_wrong_options(option, message):
    with pytest.raises(ValueError, match=message):
        bench_compile.Args(**option)
