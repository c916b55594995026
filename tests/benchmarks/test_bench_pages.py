"""bench_pages: both settings are timed, in processes of their own."""

import pytest

from benchmarks import bench_pages


def test_mistakes():
    with pytest.raises(ValueError, match="rounds is 0"):
        bench_pages.Args(rounds=0)


def test_a_line_for_each_network_and_recipe(monkeypatch, capsys):
    found = {
        False: [[20.0, 8.0, 900.0], [30.0, 9.0, 901.0]],
        True: [[10.0, 0.0, 1.0], [20.0, 0.0, 2.0]],
    }
    monkeypatch.setattr(bench_pages, "in_process", lambda args, large: found[large])
    bench_pages.main(bench_pages.Args(networks=("vit",), rounds=1))
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith("vit            baseline   ms    20.0 ->    10.0, ratio 2.00;")
    assert "ratio 1.50" in second


@pytest.mark.slow
def test_a_process_times_its_steps():
    args = bench_pages.Args(networks=("vit",), recipes=("baseline",), side=64, batch=1)
    ((wall, system, faults),) = bench_pages.in_process(args, large=True)
    assert wall > system >= 0
    assert faults >= 0
