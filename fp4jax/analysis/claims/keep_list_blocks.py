"""What a page says of keep lists."""

from fp4jax.analysis.claims.contrast_blocks import contrast_table
from fp4jax.analysis.claims.keep_lists import TEXT, list_files
from fp4jax.analysis.claims.markdown import table
from fp4jax.analysis.claims.source import Source
from fp4jax.analysis.csv_tables import header_of, read_csv

_MISSING = "Not measured yet."


def lists(source: Source) -> str:
    """Which layers each list keeps, and its score."""
    found = []
    for path in list_files(source.folder)[0]:
        header = header_of(path)
        found.append(table(header, read_csv(path, header).to_numpy().tolist()))
    return "\n\n".join(found) or _MISSING


def contrasts(source: Source) -> str:
    """Lists against each other, on the same patients."""
    found = []
    for path in list_files(source.folder)[1]:
        rows = read_csv(path, TEXT).assign(contrast="lists")
        found.append(contrast_table(rows.assign(of_patients=rows["n"], of_folds=rows["folds"])))
    return "\n\n".join(found) or _MISSING
