"""The profile of a step: totals of toy figures, a toy network, options."""

import json

import pytest

from benchmarks import bench_profile, networks, profile_tables, step_profile
from benchmarks.hlo_classes import CLASSES, QUANTIZERS
from benchmarks.profile_trace import BETWEEN
from benchmarks.step_profile import Profile, Usage


def profile(quantizers):
    return Profile(
        usage=Usage(wall=0.1, cpu=0.13, system=0.01, faults=1234, others=0.02),
        traced=0.11 + quantizers,
        wall={CLASSES[0]: 0.1, QUANTIZERS: quantizers, BETWEEN: 0.01},
        cores={CLASSES[0]: 1.5, BETWEEN: 0.2},
        mixed=0.02,
        unknown=0.0,
        temporary=2 * 10**6,
        top=[(0.05, 1.5, "dot.1", "jit(step)/dot_general")],
    )


def test_tables(capsys, monkeypatch):
    monkeypatch.setattr(step_profile, "cores", lambda: 2)
    found = {"baseline": profile(0.0), "full": profile(0.04)}
    assert found["full"].idle == pytest.approx(0.05)
    profile_tables.show("toy", found)
    profile_tables.show_top(found)
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in lines if "│" in line}
    row = lambda name: [cell.strip() for cell in cells[name]]  # noqa: E731
    assert row(QUANTIZERS) == ["0.0", "0%", "", "40.0", "27%", "", "+40.0"]
    assert row("sum of the classes")[::3] == ["110.0", "150.0", "x 1.36"]
    assert row("page faults")[0] == "1,234"
    assert row("idle cores")[::3] == ["50.0", "50.0", "x 1.00"]


def test_usage_counts_what_a_call_takes():
    found = step_profile.used(lambda: sum(range(300_000)))
    assert found.cpu > 0
    assert found.wall > 0
    assert found.system <= found.cpu
    calls = []
    usages = step_profile.usages([lambda: calls.append(0), lambda: calls.append(1)], 3)
    assert len(usages) == 2
    assert calls == [0, 1] * 4  # first one call of each to warm up


@pytest.mark.slow  # two programs of a network
def test_a_toy_network(tmp_path, monkeypatch, capsys):
    small = {"model_options": {"stages": 2, "channels": 16}}
    config = networks.Network.config
    monkeypatch.setattr(
        networks.Network, "config", lambda self, *a, **options: config(self, *a, **options, **small)
    )
    file = tmp_path / "toy.json"
    args = bench_profile.Args(networks=("cnn",), side=16, batch=2, steps=2, top=3, json=file)
    bench_profile.main(args)
    saved = json.loads(file.read_text())
    ((_, tables),) = saved["tables"].items()
    assert list(tables) == ["baseline", "2d+rht+sr"]
    for found in tables.values():
        assert sum(found["wall"].values()) == pytest.approx(found["traced"])
        assert found["unknown"] == 0
        assert len(found["top"]) == 3
    assert QUANTIZERS not in tables["baseline"]["wall"]
    assert tables["2d+rht+sr"]["wall"][QUANTIZERS] > 0
    ((_, memory),) = saved["memory"].items()
    assert [row["name"] for row in memory] == ["baseline", "2d+rht+sr"]
    assert memory[1]["ratio"] == memory[1]["temporary MB"] / memory[0]["temporary MB"]
    assert "temporary memory of a step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"networks": ("resnet",)}, "networks has resnet"),
        ({"steps": 0}, "steps is 0; give at least 1"),
        ({"recipes": ()}, "recipes is empty"),
        ({"recipes": ("nvfp3",)}, "nvfp3"),
    ],
)
def test_wrong_options(option, message):
    with pytest.raises(ValueError, match=message):
        bench_profile.Args(**option)
