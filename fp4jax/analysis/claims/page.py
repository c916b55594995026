"""Tables of a page in Markdown, each between ``<!-- NAME -->`` and ``<!-- end -->``."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fp4jax.analysis.claims.collected import METRICS, Collected
from fp4jax.analysis.claims.coverage import missing
from fp4jax.analysis.claims.drawings import NAMES
from fp4jax.analysis.claims.rules import CLAIMS
from fp4jax.analysis.claims.tables import PRIMARY, Tables
from fp4jax.analysis.figures.style import shown, title

# Each with a column NAME_holm.
_TESTS = ("p", "p_folds", "p_equivalence")
_NOTHING = "Nothing yet: no recipe has runs beside its baseline's."


class Source(NamedTuple):
    """What a page is written from, and where its figures lie, seen from the page."""

    study: Collected
    tables: Tables
    figures: dict[str, str]


def filled(text: str, folder: Path, page: Path) -> str:
    """The page with its tables as the files in the folder have them; the same, the same text.

    Args:
        text: of the page. What stands between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced,
            for the names of :data:`TABLES`.
        folder: with the tables that :meth:`fp4jax.analysis.claims.Tables.write` and
            :meth:`fp4jax.analysis.claims.Collected.write` left, and figures.
        page: where it is to be, for links to the figures.

    Raises:
        ValueError: a name that is none, or a page without any.
    """
    figures = {
        path.stem: Path(os.path.relpath(path, page.parent)).as_posix()
        for path in sorted(folder.glob("*.png"))
    }
    source = Source(Collected.read(folder), Tables.read(folder), figures)

    def fill(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise ValueError(
                f"{page} has a table <!-- {match[1]} -->; allowed: {', '.join(TABLES)}."
            )
        return f"<!-- {match[1]} -->\n\n{TABLES[match[1]](source)}\n\n<!-- end -->"

    pattern = r"<!-- (?!end -->)([\w ]+) -->\n.*?<!-- end -->"
    text, count = re.subn(pattern, fill, text, flags=re.DOTALL)
    if not count:
        raise ValueError(
            f"{page} has no place for a table; write <!-- NAME --> and <!-- end -->, each on a "
            f"line of its own, for a NAME of {', '.join(TABLES)}."
        )
    return text


def status(source: Source) -> str:
    """Whether the study is whole, and what it lacks."""
    runs, found = source.study.runs, _loose(source.tables.coverage)
    lacking = missing(found)
    there = found[found["runs"] > 0]
    patients = source.study.patients["patient"].nunique()
    lines = []
    if lacking:
        lines.append(
            f"**Partial: {len(runs)} runs are finished, and combinations of architecture and "
            "recipe that the study states lack folds.** What they would decide is not decided yet. "
            f"Missing: {'; '.join(lacking)}."
        )
    else:
        lines.append(f"**Complete as stated: {len(runs)} runs.**")
    absent = _absent(found)
    lines.append(
        f"{patients} patients were tested, {_list(sorted(set(there['scale'])))}, seeds "
        f"{_list(sorted(set(runs['seed'])))}. Recipes of the paper that no architecture has: "
        f"{', '.join(map(shown, absent)) or 'none'}."
    )
    return "\n\n".join(lines)


def _absent(found: Any) -> list[str]:
    runs = found.groupby("label", sort=False)["runs"].sum()
    return [label for label in runs.index if not runs[label]]


def design(source: Source) -> str:
    """Settings of the runs; several values of one are listed."""
    runs = source.study.runs
    hours = runs["train_seconds"].sum() / 3600
    rows = [
        ["image", f"{_each(runs['image_size'])} pixels a side"],
        ["models", f"{_each(map(title, runs['arch']))}; {_each(runs['scale'])}"],
        ["folds; split seed", f"{_each(runs['folds'])}; {_each(runs['split_seed'])}"],
        ["seeds", _each(runs["seed"])],
        ["epochs; batch", f"{_each(runs['epochs'])}; {_each(runs['batch_size'])}"],
        ["schedule", _each(runs["schedule"])],
        ["runs; hours of training", f"{len(runs)}; {hours:.1f}"],
        ["revision", _each(runs["revision"].astype(str).str[:7])],
        ["jax", _each(runs["jax"])],
        ["data (SHA-256)", _each(runs["data"])],
    ]
    return _table(["", ""], rows)


def extent(source: Source) -> str:
    """Folds and patients of each recipe."""
    found = _loose(source.tables.coverage)
    rows = []
    for (scale, label), own in found.groupby(["scale", "label"], sort=False):
        own = own.set_index("arch")
        cells = [f"{r['folds']} of {r['of_folds']}, {r['patients']}" for _, r in own.iterrows()]
        rows.append([scale, f"`{shown(label)}`", *cells])
    archs = [title(arch) for arch in dict.fromkeys(found["arch"])]
    return _table(["scale", "recipe", *(f"{arch}: folds, patients" for arch in archs)], rows)


def means(source: Source) -> str:
    """Mean scores over patients."""
    rows = [
        [title(row["arch"], row["scale"]), f"`{shown(row['label'])}`", str(row["patients"])]
        + [_number(row[metric], 3) for metric in METRICS]
        for row in source.tables.means.to_dict(orient="records")
    ]
    return _table(["model", "recipe", "patients", *(NAMES[m] for m in METRICS)], rows)


def recipes(metrics: Sequence[str]) -> Callable[[Source], str]:
    """Each recipe against the baseline."""

    def make(source: Source) -> str:
        names = dict.fromkeys(["recipes", *source.tables.contrasts["contrast"]])
        return _contrasts(source, [n for n in names if n.startswith("recipes")], metrics)

    return make


def groups(source: Source) -> str:
    """Groups of recipes in an architecture, and architectures."""
    own = _loose(source.tables.contrasts)
    text = _contrasts(source, ["gradients", "advanced", "architectures", "scales"], PRIMARY)
    known = own[own["members"].notna()] if len(own) else own
    used = dict.fromkeys(f"{title(r.arch)}, {r.contrast}: {r.members}" for r in known.itertuples())
    return "\n\n".join([text, *(["\n".join(f"- {line}" for line in used)] if used else [])])


def _contrasts(source: Source, names: Iterable[str], metrics: Sequence[str]) -> str:
    own = _loose(source.tables.contrasts)
    own = own[own["contrast"].isin(names) & own["metric"].isin(metrics)]
    if own.empty:
        return _NOTHING
    rows = []
    for row in own.to_dict(orient="records"):
        partial = (
            ""
            if row["folds"] >= row["of_folds"]
            else f" ({row['folds']} of {row['of_folds']} folds)"
        )
        arch, a, b = (row[name] for name in ("arch", "a", "b"))
        first = title(arch, row["scale"]) if arch in ("cnn", "vit", "swin") else arch
        pair = f"`{shown(b)}`" if row["contrast"].startswith("recipes") else f"{a} - {b}"
        line = [first, pair, NAMES[row["metric"]], f"{row['n']}{partial}"]
        line += [_interval(row["difference"], row["ci_low"], row["ci_high"])]
        line += [_number(row["d_z"], 2), *(_p(row[f"{p}_holm"]) for p in _TESTS)]
        rows.append([*line, _number(row["detectable"], 3), row["verdict"]])
    header = ["model", "compared", "metric", "patients", "difference, 95 % interval", "d_z"]
    header += ["p, these networks", "p, over folds", "p of equivalence", "detectable", "verdict"]
    return _table(header, rows)


def sources(source: Source) -> str:
    """Shares of variance, and differences of variances."""
    own = _loose(source.tables.variances)
    if own.empty:
        return "Nothing yet: it takes two recipes with all folds in two architectures."
    rows = []
    for row in own.to_dict(orient="records"):
        spread = _interval(*(1e4 * row[name] for name in ("variance", "low", "high")), digits=2)
        share = _interval(*(100 * row[n] for n in ("share", "share_low", "share_high")), digits=1)
        rows.append([row["scale"], NAMES[row["metric"]], row["source"], share, spread])
    about = [
        f"{NAMES[metric]} at {scale}: {first['patients']} patients, {first['folds']} folds, "
        f"recipes {first['labels']}{'' if first['converged'] else '; the fit did not converge'}."
        for (scale, metric), group in own.groupby(["scale", "metric"], sort=False)
        for first in [group.iloc[0]]
    ]
    header = ["scale", "metric", "source", "share, per cent", "variance x 10000, 95 % interval"]
    return "\n\n".join([_table(header, rows), " ".join(about)])


def verdicts(source: Source) -> str:
    """Each claim in one line."""
    own = _loose(source.tables.claims)
    rows = []
    for claim, group in own.groupby("claim"):
        by = group.drop_duplicates("metric").set_index("metric")["of_claim"]
        rows.append([str(claim), CLAIMS[claim], *(f"**{by[m]}**" for m in PRIMARY)])
    return _table(["", "the paper says", *(f"by {NAMES[m]}" for m in PRIMARY)], rows)


def parts(source: Source) -> str:
    """What decides each claim."""
    rows = []
    claims = source.tables.claims.sort_values(["claim", "part"], kind="stable")
    for row in claims.to_dict(orient="records"):
        # Of variances, in units of 1e-4.
        digits, unit = (2, 1e4) if "variances" in str(row["measured"]) else (4, 1.0)
        values = (unit * row[name] for name in ("estimate", "low", "high"))
        interval = _interval(*values, digits=digits)
        interval += " x 10^-4" if unit > 1 and interval else ""
        # Nothing is NaN in a CSV file.
        lacks, measured = (v if isinstance(v := row[n], str) else "" for n in ("lacks", "measured"))
        verdict = f"{row['verdict']}; lacks {lacks}" if lacks else row["verdict"]
        first = [f"{row['claim']}{row['part']}", row["says"], NAMES[row["metric"]]]
        rows.append([*first, measured, interval, verdict])
    return _table(["", "part", "metric", "measured", "estimate, 95 % interval", "verdict"], rows)


def inside(source: Source) -> str:
    """Gradient noise and attention, layers averaged; the CSV file has each layer."""
    own = _loose(source.study.inside)
    if own.empty:
        return "Not measured yet."
    total = own[(own["of"] != "gradient") | (own["layer"] == "total")]
    keys = ["arch", "scale", "state", "recipe", "of", "quantity"]
    rows = []
    for names, group in total.groupby(keys, sort=False):
        arch, scale, state, recipe, of, quantity = names
        spread = f"{group['mean'].min():.3g} to {group['mean'].max():.3g}"
        line = [title(arch, scale), state, f"`{shown(recipe)}`", f"{of}: {quantity}"]
        line += [str(group["runs"].max()), f"{group['mean'].mean():.3g}"]
        rows.append([*line, spread if len(group) > 1 else ""])
    return _table(["model", "weights", "recipe", "quantity", "runs", "mean", "layers"], rows)


def figure(name: str, caption: str) -> Callable[[Source], str]:
    """A picture, once there is one."""

    def make(source: Source) -> str:
        link = source.figures.get(name)
        return f"![{caption}]({link})" if link else _NOTHING

    return make


TABLES: dict[str, Callable[[Source], str]] = {
    "status": status,
    "design": design,
    "extent": extent,
    "means": means,
    "recipes auprc": recipes(["auprc"]),
    "recipes f2": recipes(["f2"]),
    "recipes secondary": recipes(METRICS[len(PRIMARY) :]),
    "groups": groups,
    "variance": sources,
    "claims": verdicts,
    "parts": parts,
    "inside": inside,
    "figure contrasts": figure(
        "contrasts", "What each recipe costs a patient, with the margin of equivalence"
    ),
    "figure patients": figure("patients", "AUPRC of every test patient, recipe against baseline"),
}


def _loose(frame: Any) -> Any:
    """What pandas' own annotations make of a selection is no help."""
    return frame


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any, digits: int) -> str:
    return "" if value != value else f"{value:.{digits}f}"


def _interval(value: Any, low: Any, high: Any, digits: int = 4) -> str:
    if value != value:
        return ""
    text = f"{value:.{digits}f}"
    return text if low != low else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def _p(value: Any) -> str:
    return "" if value != value else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _each(values: Iterable[Any]) -> str:
    known = dict.fromkeys(value for value in values if value == value)
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in known)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
