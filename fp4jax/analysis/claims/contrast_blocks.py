"""What a page says of a study's contrasts, variances and claims."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fp4jax.analysis.claims.drawings import NAMES
from fp4jax.analysis.claims.markdown import interval, loose, number, p_value, table
from fp4jax.analysis.claims.rules import CLAIMS, OF_ANY_SCALE
from fp4jax.analysis.claims.source import NOTHING, Source
from fp4jax.analysis.claims.tables import PRIMARY
from fp4jax.analysis.figures.style import shown, title

if TYPE_CHECKING:
    import pandas as pd

# Each with a column NAME_holm.
_TESTS = ("p", "p_folds", "p_equivalence")
_NO_GROUP = (
    "Nothing yet: no architecture has recipes of both groups with all folds, and no two "
    "architectures have recipe 5."
)


def recipes(metrics: Sequence[str]) -> Callable[[Source], str]:
    """Each recipe against the baseline."""

    def make(source: Source) -> str:
        names = dict.fromkeys(["recipes", *source.tables.contrasts["contrast"]])
        names = [name for name in names if name.startswith("recipes")]
        return _contrasts(source, names, metrics, NOTHING)

    return make


def groups(source: Source) -> str:
    """Groups of recipes in an architecture, and architectures."""
    own = loose(source.tables.contrasts)
    names = ["gradients", "advanced", "architectures", "scales"]
    text = _contrasts(source, names, PRIMARY, _NO_GROUP)
    known = own[own["members"] != ""]
    used = dict.fromkeys(f"{title(r.arch)}, {r.contrast}: {r.members}" for r in known.itertuples())
    return "\n\n".join([text, *(["\n".join(f"- {line}" for line in used)] if used else [])])


def _contrasts(source: Source, names: Iterable[str], metrics: Sequence[str], nothing: str) -> str:
    own = loose(source.tables.contrasts)
    own = own[own["contrast"].isin(names) & own["metric"].isin(metrics)]
    return nothing if own.empty else contrast_table(own)


def contrast_table(contrasts: "pd.DataFrame") -> str:
    """Rows as :func:`fp4jax.analysis.claims.contrasts.compared` has them."""
    rows = []
    for row in contrasts.to_dict(orient="records"):
        patients = str(row["n"])
        if row["n"] < row["of_patients"]:
            patients += f" of {row['of_patients']}"
        if row["folds"] < row["of_folds"]:
            patients += f" ({row['folds']} of {row['of_folds']} folds)"
        arch, a, b = (row[name] for name in ("arch", "a", "b"))
        first = title(arch, row["scale"]) if arch in ("cnn", "vit", "swin") else arch
        pair = f"`{shown(b)}`" if row["contrast"].startswith("recipes") else f"{a} - {b}"
        line = [first, pair, NAMES[row["metric"]], patients]
        line += [interval(row["difference"], row["ci_low"], row["ci_high"])]
        line += [number(row["d_z"], 2), *(p_value(row[f"{p}_holm"]) for p in _TESTS)]
        rows.append([*line, number(row["detectable"], 3), row["verdict"]])
    header = ["model", "compared", "metric", "patients", "difference, 95 % interval", "d_z"]
    header += ["p, these networks", "p, over folds", "p of equivalence", "detectable", "verdict"]
    return table(header, rows)


def sources(source: Source) -> str:
    """Shares of variance, and differences of variances."""
    own = loose(source.tables.variances)
    if own.empty:
        return "Nothing yet: it takes two recipes with all folds in two architectures."
    rows = []
    for row in own.to_dict(orient="records"):
        spread = interval(*(1e4 * row[name] for name in ("variance", "low", "high")), digits=2)
        share = interval(*(100 * row[n] for n in ("share", "share_low", "share_high")), digits=1)
        rows.append([row["scale"], NAMES[row["metric"]], row["source"], share, spread])
    about = [
        f"{NAMES[metric]} at {scale}: {first['patients']} patients, {first['folds']} folds, "
        f"recipes {first['labels']}{'' if first['converged'] else '; the fit did not converge'}."
        for (scale, metric), group in own.groupby(["scale", "metric"], sort=False)
        for first in [group.iloc[0]]
    ]
    header = ["scale", "metric", "source", "share, per cent", "variance x 10000, 95 % interval"]
    return "\n\n".join([table(header, rows), " ".join(about)])


def verdicts(source: Source) -> str:
    """Each claim in one line."""
    own = loose(source.tables.claims)
    rows = []
    for claim, group in own.groupby("claim"):
        by = group.drop_duplicates("metric").set_index("metric")
        lacks = {m: f"; lacks {text}" if (text := by["claim_lacks"][m]) else "" for m in PRIMARY}
        cells = (f"**{by['of_claim'][m]}**{lacks[m]}" for m in PRIMARY)
        rows.append([str(claim), CLAIMS[claim], *cells])
    return table(["", "the paper says", *(f"by {NAMES[m]}" for m in PRIMARY)], rows)


def parts(source: Source) -> str:
    """What decides each claim, and at which scale those were measured that may be at any."""
    rows = []
    claims = source.tables.claims.sort_values(["claim", "part"], kind="stable")
    for row in claims.to_dict(orient="records"):
        # Of variances, in units of 1e-4.
        digits, unit = (2, 1e4) if "variances" in row["measured"] else (4, 1.0)
        values = (unit * row[name] for name in ("estimate", "low", "high"))
        known = interval(*values, digits=digits)
        known += " x 10^-4" if unit > 1 and known else ""
        low, high = (number(row[name], 4) for name in ("low_90", "high_90"))
        lacks = f"; lacks {row['lacks']}" if row["lacks"] else ""
        first = [f"{row['claim']}{row['part']}", row["says"], NAMES[row["metric"]]]
        shown_equal = f"{low} to {high}" if low else ""
        rows.append([*first, row["measured"], known, shown_equal, row["verdict"] + lacks])
    header = ["", "part", "metric", "measured", "estimate, 95 % interval", "90 %, equivalence"]
    return "\n\n".join([table([*header, "verdict"], rows), _scales(claims)])


def _scales(claims: Any) -> str:
    """At which those were measured that may be at any."""
    own = claims[claims["claim"].isin(OF_ANY_SCALE) & (claims["metric"] == PRIMARY[0])]
    first = own.drop_duplicates("claim")
    each = [f"claim {row.claim} at {row.scale.upper()}" for row in first.itertuples()]
    return f"Measured, by {NAMES[PRIMARY[0]]}: {', '.join(each)}."
