"""report.md and plots of run_gpu's folder, from the JSON files of its parts."""

import importlib.util
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots

_BARS = ("quantizer", "training", "inference")
#: Columns that are not shown as they are.
_HIDDEN = {"median_ms": "ms"}


def read(path: Path) -> dict[str, Any]:
    """A part's file."""
    return json.loads(path.read_text())


def nothing(name: str, tiny: bool) -> dict[str, Any]:
    """The file of a part that ended before it wrote one."""
    empty: dict[str, Any] = {"tables": {}, "notes": [], "error": None, "machine": {}}
    return {"part": name, "status": "running", "seconds": 0, "tiny": tiny, **empty}


def write(out: Path, order: Sequence[str]) -> None:
    """report.md and PNG files, from whatever parts the folder holds."""
    parts = [read(path) for name in order if (path := out / f"{name}.json").exists()]
    lines = ["# GPU figures", ""]
    if any(part["tiny"] for part in parts):
        lines += ["**Toy sizes: these figures say nothing about speed.**", ""]
    machines = {json.dumps(part["machine"], sort_keys=True) for part in parts if part["machine"]}
    lines += [f"Machine: {_machine(json.loads(m))}" for m in sorted(machines)]
    if not any(part["tiny"] for part in parts):
        lines += ["", "## Targets", "", _markdown(targets(parts))]
    lines += [""]
    lines += [section(part) for part in parts]
    plots, note = _plots(out, parts)
    lines += [f"![{path.stem}]({path.name})" for path in plots] or [note]
    (out / "report.md").write_text("\n".join(lines) + "\n")


def _machine(machine: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def section(part: dict[str, Any]) -> str:
    """A part in Markdown: how it ended, and its tables."""
    lines = [f"## {part['part']}: {part['status']} in {part['seconds']} s", ""]
    for title, table in part["tables"].items():
        lines += [f"### {title}", "", _markdown(table["rows"]), ""]
    lines += [f"Note: {note}\n" for note in part["notes"]]
    if part["error"]:
        lines += ["```", part["error"].strip(), "```", ""]
    return "\n".join(lines)


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    # Where everything was right, columns of nothing are left out.
    columns = [c for c in columns if any(row.get(c) not in (None, "") for row in rows)]
    lines = [[_HIDDEN.get(c, c) for c in columns]]
    lines.append(["---" if c in ("name", "note", "value") else "---:" for c in columns])
    lines += [[_cell(row.get(c)) for c in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value).replace("|", "\\|").replace("\n", " ")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def targets(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked of the kernels, what was measured, and whether it is met."""
    tables = {
        part["part"]: [(t["about"], {row["name"]: row for row in t["rows"]}) for t in _tables(part)]
        for part in parts
    }
    wrong = {name: _different(tables.get(name, [])) for name in ("decode", "selfchecks")}
    large = [
        (about["rows"], _speeds(rows))
        for about, rows in tables.get("matmul", [])
        if about["layer"] == "large" and not about["quantized"]
    ]
    quantizers = [
        rows[f"{result}, fused"]["median_ms"] / rows[f"{result}, XLA"]["median_ms"]
        for about, rows in tables.get("quantizer", [])
        if about["hadamard_and_stochastic"]
        for result in ("operand", "packed")
    ]
    found = [
        _row("decoding, values that differ", wrong["decode"], 0, max),
        _row(
            "self-checks and kernels against jnp, values that differ", wrong["selfchecks"], 0, max
        ),
        _row(
            "W4A16 8192 x 8192, up to 16 rows, speed over bfloat16",
            [max(speeds.get("auto", 0), speeds.get("pallas", 0)) for m, speeds in large if m <= 16],
            2.2,
            min,
        ),
        _row(
            "W4A16 8192 x 8192, any rows, speed over bfloat16 (decoded once where that is faster)",
            [max(speed for name, speed in speeds.items() if name in _OURS) for _, speeds in large],
            0.95,
            min,
        ),
        _row("fused RHT + SR quantizer, time over XLA's", quantizers, 0.5, max),
    ]
    for recipe, limit in (("forward_only", 1.15), ("2d+rht+sr", 1.3)):
        ratios = {
            about["arch"]: rows[f"{recipe}, fused quantizer"]["ratio"]
            for about, rows in tables.get("training", [])
            if f"{recipe}, fused quantizer" in rows
        }
        name = f"training step of the 4m models, {recipe} over baseline"
        found.append(_row(_of(name, ratios), ratios.values(), limit, max))
    lanes = {
        about["arch"]: ratio
        for about, rows in tables.get("seeds", [])
        if about["arch"] in ("swin", "vit")
        for ratio in [[row["ratio"] for row in rows.values()][-1]]
    }
    found.append(_row(_of("ten seeds over one, 500k", lanes), lanes.values(), 3, max))
    return found


_OURS = ("auto", "pallas", "decoded once")


def _tables(part: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return part["tables"].values()


def _different(tables: Iterable[tuple[dict, dict]]) -> list[int]:
    return [row["different"] for _, rows in tables for row in rows.values()]


def _speeds(rows: dict[str, dict]) -> dict[str, float]:
    return {name: row["x bfloat16"] for name, row in rows.items()}


def _of(name: str, values: dict[str, float]) -> str:
    return f"{name} ({', '.join(values)})" if values else name


def _row(
    name: str, values: Iterable[float], limit: float, worst: Callable[[list[float]], float]
) -> dict[str, Any]:
    """The worst of some values against what it may be: at least ``limit`` if that is the least."""
    values = list(values)
    least = worst is min
    target = f"{'at least' if least else 'at most'} {limit:g}"
    if not values:
        return {"name": name, "target": target, "measured": "not measured", "met": ""}
    value = worst(values)
    met = not math.isnan(value) and (value >= limit if least else value <= limit)
    return {"name": name, "target": target, "measured": value, "met": "yes" if met else "**no**"}


def _plots(out: Path, parts: Sequence[dict[str, Any]]) -> tuple[list[Path], str]:
    """PNG files of the parts that have something to draw; a note without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return [], "No plots: matplotlib is not installed."
    drawn = []
    for part in parts:
        path = out / f"{part['part']}.png"
        tables = {title: t["rows"] for title, t in part["tables"].items() if t["rows"]}
        if part["part"] == "matmul" and tables:
            about = [(_layer(t["about"]), t["about"]["rows"], t["rows"]) for t in _tables(part)]
            plots.speed_by_rows(path, about)
        elif part["part"] in _BARS and tables:
            plots.bars(path, tables)
        else:
            continue
        drawn.append(path)
    return drawn, "Nothing to draw."


def _layer(about: dict[str, Any]) -> str:
    return about["layer"] + (", W4A4" if about["quantized"] else "")
