"""What a page says of a study itself: how far it is, its design, its scores."""

from typing import Any

from fp4jax.analysis.claims.collected import METRICS
from fp4jax.analysis.claims.coverage import missing
from fp4jax.analysis.claims.drawings import NAMES
from fp4jax.analysis.claims.markdown import each, listed, loose, number, table
from fp4jax.analysis.claims.source import Source
from fp4jax.analysis.figures.style import shown, title


def status(source: Source) -> str:
    """Whether the study is whole, and what it lacks."""
    runs, found = source.study.runs, loose(source.tables.coverage)
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
        f"{patients} patients were tested, {listed(sorted(set(there['scale'])))}, seeds "
        f"{listed(sorted(set(runs['seed'])))}. Recipes of the paper that no architecture has: "
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
        ["image", f"{each(runs['image_size'])} pixels a side"],
        ["models", f"{each(map(title, runs['arch']))}; {each(runs['scale'])}"],
        ["folds; split seed", f"{each(runs['folds'])}; {each(runs['split_seed'])}"],
        ["seeds", each(runs["seed"])],
        ["epochs; batch", f"{each(runs['epochs'])}; {each(runs['batch_size'])}"],
        ["schedule", each(runs["schedule"])],
        ["runs; hours of training", f"{len(runs)}; {hours:.1f}"],
        ["revision", each(runs["revision"].str[:7])],
        ["jax", each(runs["jax"])],
        ["data (SHA-256)", each(runs["data"])],
    ]
    return table(["", ""], rows)


def extent(source: Source) -> str:
    """Folds and patients of each recipe."""
    found = loose(source.tables.coverage)
    rows = []
    for (scale, label), own in found.groupby(["scale", "label"], sort=False):
        own = own.set_index("arch")
        cells = [f"{r['folds']} of {r['of_folds']}, {r['patients']}" for _, r in own.iterrows()]
        rows.append([scale, f"`{shown(label)}`", *cells])
    archs = [title(arch) for arch in dict.fromkeys(found["arch"])]
    return table(["scale", "recipe", *(f"{arch}: folds, patients" for arch in archs)], rows)


def means(source: Source) -> str:
    """Mean scores over patients."""
    rows = [
        [title(row["arch"], row["scale"]), f"`{shown(row['label'])}`", str(row["patients"])]
        + [number(row[metric], 3) for metric in METRICS]
        for row in source.tables.means.to_dict(orient="records")
    ]
    return table(["model", "recipe", "patients", *(NAMES[m] for m in METRICS)], rows)
