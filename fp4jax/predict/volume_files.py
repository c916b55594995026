"""check: whether cases can be segmented, before anything is written."""

from collections.abc import Sequence

from fp4jax.data.nifti import VolumeSet
from fp4jax.data.nifti.labels import check_regions
from fp4jax.data.nifti.pool import check_workers, ordered
from fp4jax.data.nifti.prepare import prepare
from fp4jax.data.progress import track

# A case takes about 0.5 GB while it is prepared.
_MOST_WORKERS = 4
_SHOWN = 10


def check(volumes: VolumeSet, places: Sequence[int], *, keep: bool) -> None:
    """Opens every file of some cases.

    Args:
        volumes: the cases.
        places: which of them.
        keep: whether prepared volumes stay in the cache of ``volumes``, and are not read again.

    Raises:
        ValueError: names all cases that cannot be used, the first ten with the reason.
    """

    def problem(place: int) -> str | None:
        case = volumes.cases[place]
        try:
            check_regions(volumes.regions, case.table)
            if keep:
                volumes.prepared(place)
            else:
                prepare(case, volumes.modalities, volumes.regions, volumes.spacing)
        except ValueError as error:
            return f"{case.id}: {error}"
        return None

    workers = check_workers(None, _MOST_WORKERS)
    found = ordered(problem, places, workers, workers)
    problems = [one for one in track(found, "Opening", total=len(places)) if one]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{len(problems)} of {len(places)} cases cannot be segmented, and nothing was written: "
            f"{'; '.join(one.rstrip('.') for one in problems[:_SHOWN])}{more}."
        )
