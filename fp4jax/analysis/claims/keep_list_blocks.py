"""What a page says of keep lists."""

from fp4jax.analysis.claims.contrast_blocks import contrast_table
from fp4jax.analysis.claims.keep_lists import TEXT, list_files
from fp4jax.analysis.claims.markdown import loose, table
from fp4jax.analysis.claims.source import Source
from fp4jax.analysis.csv_tables import header_of, read_csv
from fp4jax.analysis.figures.style import title

_MISSING = "Not measured yet."
# Column -> heading.
_COSTS = {"kl": "KL of the probabilities", "gradient": "error of the gradient"}


def lists(source: Source) -> str:
    """Which layers each list keeps, and its score."""
    found = []
    for path in list_files(source.folder):
        header = header_of(path)
        found.append(table(header, read_csv(path, header).to_numpy().tolist()))
    return "\n\n".join(found) or _MISSING


def layers(source: Source) -> str:
    """What quantizing each layer alone costs, means over splits."""
    found = []
    for path in list_files(source.folder, "_layers"):
        rows = loose(read_csv(path, ["arch", "split", "layer", "proposed"]))
        body = []
        for (arch, layer), own in rows.groupby(["arch", "layer"], sort=False):
            there = rows[(rows["arch"] == arch) & (rows["split"] == own["split"].iloc[0])]
            share = own["multiply_adds"].iloc[0] / there["multiply_adds"].sum()
            often = f"{(own['proposed'] == 'True').sum()} of {len(own)}"
            line = [title(arch), f"`{layer}`", f"{share:.1%}"]
            for cost in (own[name] for name in _COSTS):
                line.append(f"{cost.mean():.3g} ({cost.min():.3g} to {cost.max():.3g})")
            body.append([*line, often])
        header = ["model", "layer", "multiply-adds", *_COSTS.values(), "proposed, splits"]
        found.append(table(header, body))
    return "\n\n".join(found) or _MISSING


def contrasts(source: Source) -> str:
    """Lists against each other, on the same patients."""
    found = []
    for path in list_files(source.folder, "_contrasts"):
        rows = read_csv(path, TEXT).assign(contrast="lists")
        found.append(contrast_table(rows.assign(of_patients=rows["n"], of_folds=rows["folds"])))
    return "\n\n".join(found) or _MISSING
