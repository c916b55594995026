"""Cache: cohorts on disk, so that a phantom is generated once on a machine.

An entry is a folder named by a hash of all that the cohort depends on. It appears complete or not
at all; processes that make the same one at the same time do not disturb each other.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

from fp4jax.data.cohort import Cohort
from fp4jax.files import expanded


def default_folder() -> Path:
    """$FP4JAX_CACHE if set, else ``fp4jax`` in $XDG_CACHE_HOME or in ~/.cache; ``~`` is home.

    A user without a home (as in some containers) gets a folder among the temporary files.
    """
    own, users = os.environ.get("FP4JAX_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return expanded(own) or Path()
    try:
        return ((expanded(users) if users else None) or Path.home() / ".cache") / "fp4jax"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "fp4jax"


def key(**parts: object) -> str:
    """Twenty hexadecimal digits of the sha256 of the parts.

    Example:
        >>> key(patients=2, seed=1) == key(seed=1, patients=2) != key(seed=2, patients=2)
        True
    """
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def find(entry: Path) -> Cohort | None:
    """The cohort in this folder, or None; what is damaged is removed, to be made again."""
    try:
        if not entry.exists():
            return None
        return Cohort.open(entry)
    except ValueError:
        shutil.rmtree(entry, ignore_errors=True)
    except OSError:
        pass
    return None


def keep(cohort: Cohort, entry: Path) -> None:
    """Saves the cohort, or warns that this is not possible."""
    try:
        if not entry.exists():
            cohort.save(entry)
    except (OSError, ValueError) as error:
        # Another process may have been faster; then its entry holds the same.
        if find(entry) is None:
            warnings.warn(
                f"The phantom cohort could not be cached in {entry.parent} ({error}); it is made "
                "anew each time. Set FP4JAX_CACHE to a folder that can be written to.",
                stacklevel=3,
            )
