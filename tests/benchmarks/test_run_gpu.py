"""run_gpu: parts with toy sizes on a CPU, what is kept of parts that fail, targets, exit codes."""

import json

import pytest

from benchmarks import gpu_checks, gpu_report, run_gpu
from benchmarks.gpu_job import Job

CPU = {"tiny": True, "allow_cpu": True, "rounds": 1}


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow  # what the tests of the parts' own modules run, once more
def test_parts_and_report(tmp_path, capsys, monkeypatch):
    """Every decoding is right; a table is kept of a part that fails after it."""

    def fails(job: Job) -> None:
        job.add("kept", [{"name": "a", "value": "b"}])
        gpu_checks._raise_if_wrong([{"name": "this", "different": 3}])

    monkeypatch.setitem(run_gpu.PARTS, "seeds", run_gpu.Part(fails, 1))
    parts = ("seeds", "machine", "decode", "matmul", "quantizer")
    args = run_gpu.Args(tmp_path / "new", parts, isolate=False, **CPU)
    assert args.todo == ("machine", "decode", "matmul", "quantizer", "seeds")
    assert run_gpu.main(args) == 1
    assert "failed: seeds" in capsys.readouterr().out
    found = {name: json.loads((args.out / f"{name}.json").read_text()) for name in parts}
    assert [part["status"] for part in found.values()] == ["failed", *["done"] * 4]
    assert "WrongError: 1 of 1 differ: this" in found["seeds"]["error"]
    assert found["seeds"]["tables"]["kept"]["rows"] == [{"name": "a", "value": "b"}]
    (decoded,) = found["decode"]["tables"].values()
    assert {row["name"].split(",")[0] for row in decoded["rows"]} >= {"reference", "pallas"}
    assert all(row["values"] >= 4096 and row["different"] == 0 for row in decoded["rows"])
    report = (args.out / "report.md").read_text()
    assert "Toy sizes" in report
    assert "## seeds: failed" in report
    pictures = {"matmul.png", "quantizer.png"}
    assert files(args.out) == {*(f"{name}.json" for name in parts), "report.md", *pictures}


@pytest.mark.slow
def test_all_parts_in_processes(tmp_path):
    args = run_gpu.Args(tmp_path, minutes=30.0, **CPU)
    assert run_gpu.main(args) == 0
    for name in run_gpu.PARTS:
        part = gpu_report.read(tmp_path / f"{name}.json")
        assert part["status"] == "done", part
        assert part["tables"]
    assert {"report.md", "training.png", "inference.png"} <= files(tmp_path)


def test_a_part_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(run_gpu, "_GRACE", (0.0, 0.5))
    args = run_gpu.Args(tmp_path, **CPU)
    assert run_gpu._in_a_process(args, "seeds", 0.0) == -9
    part = gpu_report.read(tmp_path / "seeds.json")
    assert part["status"] == "failed"
    assert "ended after" in part["error"]


def test_without_a_gpu(tmp_path, capsys):
    assert run_gpu.main(run_gpu.Args(tmp_path / "new", isolate=False)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs an NVIDIA GPU" in line
    assert not (tmp_path / "new").exists()


def test_what_does_not_fit_is_left_out_and_noted(tmp_path):
    job = Job("some", tmp_path, rounds=1, tiny=True, seconds=1000.0)
    for item in job.in_time(["a", "b", "c"], str.upper):
        assert item == "a"
        job.start -= 900
    assert job.notes == ["left out, for lack of time: B, C"]


def test_targets():
    """The worst of what was measured is compared; what is missing is not called met."""

    def table(about, rows):
        return {"about": about, "rows": [{"name": name, **row} for name, row in rows.items()]}

    def products(rows, speeds, layer="large", quantized=False):
        about = {"layer": layer, "rows": rows, "quantized": quantized}
        return table(about, {name: {"x bfloat16": value} for name, value in speeds.items()})

    times = {"operand, fused": 1.0, "operand, XLA": 4.0, "packed, fused": 3.0, "packed, XLA": 5.0}
    about = {"hadamard_and_stochastic": True}
    parts = {
        "decode": [table({}, {"a": {"different": 0}, "b": {"different": 0}})],
        "selfchecks": [table({}, {"a": {"different": 0}, "b": {"different": 2}})],
        "matmul": [
            products(1, {"bfloat16": 1.0, "auto": 2.5}),
            products(256, {"auto": 0.3, "decoded once": 0.96}),
            products(1, {"auto": 0.1}, layer="small"),
            products(1, {"auto": 0.1}, quantized=True),
        ],
        "quantizer": [table(about, {name: {"median_ms": ms} for name, ms in times.items()})],
        "training": [table({"arch": "vit"}, {"forward_only, fused quantizer": {"ratio": 1.2}})],
    }
    found = gpu_report.targets(
        [
            {"part": name, "tables": {str(i): t for i, t in enumerate(tables)}}
            for name, tables in parts.items()
        ]
    )
    assert [(row["measured"], row["met"]) for row in found] == [
        (0, "yes"),
        (2, "**no**"),
        (2.5, "yes"),
        (0.96, "yes"),
        (0.6, "**no**"),
        (1.2, "**no**"),
        ("not measured", ""),
        ("not measured", ""),
    ]
    assert found[5]["name"].endswith("(vit)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("speed",)}, "parts has speed; allowed: machine"),
        ({"rounds": 0}, "rounds must"),
        ({"minutes": 0.0}, "minutes positive"),
        ({"allow_cpu": True}, "goes with tiny"),
    ],
)
def test_wrong_options(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_gpu.Args(tmp_path, **options)
