"""Which patients a run on volumes trains, validates and tests on."""

from collections.abc import Iterable

import numpy as np

from fp4jax.data import Split


def split_patients(
    patients: Iterable[str], val_share: float, test_share: float, seed: int
) -> Split:
    """Patients, shuffled by the seed, in three parts; all examinations of one are on one side.

    A share above 0 is one patient at least. The same patients in another order give the same
    split.

    Args:
        patients: names; those that come more than once count once.
        val_share, test_share: of the patients, each 0 to below 1.
        seed: of the shuffle.

    Raises:
        ValueError: too few patients to leave one to train on.

    Example:
        >>> split_patients(["c", "a", "b", "a"], 0.3, 0.3, seed=0).train
        ('b',)
    """
    names = sorted(set(patients))
    counts = [max(round(share * len(names)), share > 0) for share in (val_share, test_share)]
    val, test = map(int, counts)
    if val + test >= len(names):
        raise ValueError(
            f"{len(names)} patients with labels: {val} to validate and {test} to test leave none "
            "to train on; give more cases, or --val-share 0 or --test-share 0. If scans of several "
            "patients were taken for those of one, say with --patient-pattern which part of a "
            "scan's name is the patient."
        )
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return Split(
        train=tuple(order[val + test :]),
        val=tuple(order[:val]),
        test=tuple(order[val : val + test]),
        name="patients",
    )
