"""The benchmarks run, at toy sizes: what they print is not tested."""

import json

import jax
import pytest

from benchmarks import bench_ops, bench_quantize, timing


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantizers_and_peers(tmp_path):
    cases = bench_quantize.cases(32)
    results = timing.measure(cases, rounds=2)
    assert [r.name for r in results] == [c.name for c in cases]
    assert results[0].ratio == 1
    timing.show("toy", results, elements=32**2)
    timing.save(tmp_path / "new" / "toy.json", {"toy": results})
    saved = json.loads((tmp_path / "new" / "toy.json").read_text())
    assert saved["machine"]["jax"] == jax.__version__
    assert len(saved["tables"]["toy"]) == len(cases)
    assert len(list((tmp_path / "new").iterdir())) == 1  # nothing half-written is left


def test_operations(monkeypatch):
    name = next(iter(bench_ops.OPS))
    _, _, op = bench_ops.OPS[name]
    monkeypatch.setitem(bench_ops.OPS, name, ((16, 32), (32, 16), op))
    results = timing.measure(bench_ops.op_cases(name, ("baseline", "2d+rht+sr")), rounds=1)
    assert [r.name for r in results] == ["jax.lax", "baseline", "2d+rht+sr"]
