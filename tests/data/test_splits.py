"""Splits equal the reference's, and hold for cohorts that scikit-learn alone refuses."""

import csv
import json

import numpy as np
import pytest

from fp4jax.data import Cohort, Split, patient_holdout, patient_kfold
from fp4jax.data.splits import burden_strata

PARTS = ("train", "val", "test")


def cohort_of(counts):
    """A cohort of 1 x 1 images from {patient: (slices, positives)}."""
    ids = [patient for patient, (n, _) in counts.items() for _ in range(n)]
    index = [i for n, _ in counts.values() for i in range(n)]
    masks = [i < k for n, k in counts.values() for i in range(n)]
    return Cohort(
        images=np.zeros((len(ids), 1, 1, 1), np.uint8),
        masks=np.array(masks, np.uint8)[:, None, None],
        patient_ids=np.array(ids),
        slice_index=np.array(index, np.int32),
        name="counts",
        channels=("x",),
    )


def equal_counts(n):
    return cohort_of({f"p{i:03}": (10, i % 10) for i in range(n)})


def test_public_golden(shared):
    golden = json.loads((shared / "golden/ref_splits_public.json").read_text())
    cohort = cohort_of({p: (c["n_slices"], c["n_positive"]) for p, c in golden["patients"].items()})
    assert burden_strata(cohort) == golden["burden_bins"]
    splits = [patient_holdout(cohort), *patient_kfold(cohort)]
    expected = golden["holdout_seed2026"] + golden["kfold5_seed2026"]
    for split, parts in zip(splits, expected, strict=True):
        for part in PARTS:
            assert list(getattr(split, part)) == sorted(parts[part])


def test_lgg_golden(shared):
    golden = json.loads((shared / "golden/ref_splits_lgg_seed2026.json").read_text())
    with open(shared / "reference/lgg_slice_table.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    cohort = cohort_of({r["case"]: (int(r["n_slices"]), int(r["n_positive"])) for r in rows})
    assert burden_strata(cohort) == golden["burden_bins"]
    splits = [patient_holdout(cohort), *patient_kfold(cohort)]
    for split, parts in zip(splits, golden["holdout"] + golden["kfold5"], strict=True):
        for part in PARTS:
            chosen = getattr(split, part)
            assert list(chosen) == sorted(parts[part]["patients"])
            selected = cohort.select(chosen)
            assert len(selected) == parts[part]["n_slices"]
            assert selected.positive.sum() == parts[part]["n_positive"]


@pytest.mark.parametrize("n", [6, 7, 12, 24, 31])
def test_any_number_of_patients(n):
    cohort = equal_counts(n)
    for split in (patient_holdout(cohort), *patient_kfold(cohort, folds=min(5, n // 2))):
        assert sorted(split.train + split.val + split.test) == list(cohort.patients)
        assert all(getattr(split, part) for part in PARTS)
        assert all(list(getattr(split, part)) == sorted(getattr(split, part)) for part in PARTS)


def test_seed_and_order_of_slices():
    cohort = equal_counts(40)
    assert patient_holdout(cohort, 1) == patient_holdout(cohort, 1)
    assert patient_holdout(cohort, 1) != patient_holdout(cohort, 2)
    shuffled = cohort._take(np.random.default_rng(0).permutation(len(cohort)))
    assert patient_holdout(shuffled) == patient_holdout(cohort)
    assert patient_kfold(shuffled) == patient_kfold(cohort)


def test_equal_burdens_make_one_stratum():
    cohort = cohort_of({f"p{i:02}": (4, 2) for i in range(20)})
    assert set(burden_strata(cohort).values()) == {0}
    assert len(patient_holdout(cohort).test) == 2
    assert len(patient_kfold(cohort)) == 5


def test_cross_fit_tests_everyone_once():
    cohort = equal_counts(30)
    plain, crossed = patient_kfold(cohort), patient_kfold(cohort, cross_fit=True)
    assert len(crossed) == 10
    assert crossed[::2] == plain
    assert [s.name for s in crossed[:2]] == ["fold0", "fold0_swapped"]
    tested = [patient for split in crossed for patient in split.test]
    assert sorted(tested) == list(cohort.patients)
    for one, other in zip(crossed[::2], crossed[1::2], strict=True):
        assert (one.train, one.val, one.test) == (other.train, other.test, other.val)


def test_refuses():
    with pytest.raises(ValueError, match=r"5 patients; .* at least 6"):
        patient_holdout(equal_counts(5))
    for folds in (1, 0, -3, 7, 12):
        with pytest.raises(ValueError, match=f"folds is {folds} for 12 patients.*2 to 6"):
            patient_kfold(equal_counts(12), folds=folds)
    with pytest.raises(ValueError, match=r"\['a'\] are in more than one part"):
        Split(("a", "b"), ("a",), ("c",))


def test_split_sorts():
    assert Split(("b", "a"), (), ("c",)).train == ("a", "b")


def test_strata_equal_pandas():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    for _ in range(200):
        slices = rng.integers(2, 40, rng.integers(4, 60))
        positive = rng.integers(0, 4, slices.size).clip(max=slices)
        counts = {f"p{i:02}": pair for i, pair in enumerate(zip(slices, positive, strict=True))}
        expected = pandas.qcut(positive / slices, 3, labels=False, duplicates="drop")
        # pandas leaves patients out when all burdens are equal.
        expected = np.nan_to_num(expected).astype(int)
        assert list(burden_strata(cohort_of(counts)).values()) == expected.tolist()
