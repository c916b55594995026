"""Which folder may be written to: one that has nothing but what was written there before."""

from pathlib import Path

from fp4jax.analysis.claims.collected import PATIENT_COLUMNS, RUN_COLUMNS
from fp4jax.analysis.csv_tables import header_of


def check_replaceable(folder: Path) -> None:
    """That files in it may be replaced and removed.

    Raises:
        ValueError: it is a file, or has files and no ``runs.csv`` and ``patients.csv`` as
            :meth:`fp4jax.analysis.claims.Collected.write` leaves them.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the tables.")
    columns = {"runs.csv": RUN_COLUMNS, "patients.csv": PATIENT_COLUMNS}
    own = all(header_of(folder / name) == names for name, names in columns.items())
    if not own and any(folder.iterdir()):
        raise ValueError(
            f"{folder} has files, and no runs.csv and patients.csv of collected claims: nothing in "
            "it is replaced; name a new or empty folder."
        )
