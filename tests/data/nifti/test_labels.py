"""Label maps and the regions that they mean, there and back."""

import numpy as np
import pytest

from fp4jax.data.nifti import to_labels, to_regions
from tests.data.reading import refused

pytest.importorskip("nibabel")


@pytest.mark.parametrize(
    ("layout", "necrosis", "oedema", "enhancing"),
    [
        ("brats2013", 1, 2, 4),
        ("brats2020", 1, 2, 4),
        ("brats2021", 1, 2, 4),
        ("brats2023", 1, 2, 3),
        ("brats2024", 1, 2, 3),
        ("msd", 2, 1, 3),
    ],
)
def test_labels_mean_what_the_layout_says(layout, necrosis, oedema, enhancing):
    labels = np.array([0, oedema, necrosis, enhancing], np.float32).reshape(4, 1, 1)
    regions = to_regions(labels, layout)
    assert regions[:, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(to_labels(regions, layout), labels)
    # Masks that contradict each other: the smallest region decides.
    alone = np.array([[[[0, 0, 1]]]], np.uint8)
    assert to_labels(alone, layout).item() == enhancing


def test_resection_cavity_and_own_tables():
    labels = np.arange(5, dtype=np.int16).reshape(1, 1, 5)
    names = ("whole_tumour", "tumour_core", "enhancing", "resection_cavity")
    regions = to_regions(labels, "brats2024", regions=names)
    assert regions[0, 0, :, 0].tolist() == [0, 1, 1, 1, 0]
    assert regions[0, 0, :, 3].tolist() == [0, 0, 0, 0, 1]
    np.testing.assert_array_equal(to_labels(regions, "brats2024", names=names), labels)
    # Label 3 of 2013 is part of the core, which is written as 1.
    two = to_regions(labels, "brats2013")
    assert to_labels(two, "brats2013").ravel().tolist() == [0, 1, 2, 1, 4]
    organs = {"liver": {1, 300}, "lesion": {300}}
    labels = np.array([[[0, 1, 300]]])
    masks = to_regions(labels, organs, regions=("lesion", "liver"))
    assert masks[0, 0].tolist() == [[0, 0], [0, 1], [1, 1]]
    back = to_labels(masks, organs, names=("lesion", "liver"))
    assert back.dtype == np.int16
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize(
    ("call", "texts"),
    [
        (
            lambda: to_regions(np.full((1, 1, 2), 3), "brats2020", path="a/seg.nii"),
            ("a/seg.nii has label values 3", "0, 1, 2, 4 only", "brats2013, brats2023"),
        ),
        (lambda: to_regions(np.full((1, 1, 1), -1), "msd"), ("label values -1", "0, 1, 2, 3")),
        (lambda: to_regions(np.full((1, 1, 1), 0.5), "msd", path="p.nii"), ("p.nii", "0.5")),
        (lambda: to_regions(np.full((1, 1, 1), 1e9), "msd"), ("at most 32767",)),
        (lambda: to_regions(np.zeros((1, 1, 1), int), "brats"), ("'brats'", "brats2020")),
        (lambda: to_regions(np.zeros((1, 1, 1), int), {"a": {0}}), ("'a'", "0 is background")),
        (
            lambda: to_regions(np.zeros((1, 1, 1), int), "msd", regions=("core",)),
            ("core", "tumour_core"),
        ),
        (lambda: to_labels(np.full((1, 1, 1, 3), 0.5), "msd"), ("threshold",)),
        (lambda: to_labels(np.zeros((1, 1, 1, 2)), "msd"), ("2 masks for 3 regions",)),
    ],
)
def test_wrong_labels(call, texts):
    refused(call, *texts)


def test_almost_integers_are_labels():
    mask = np.array([0.0, 0.99999997]).reshape(1, 1, 2)  # as a published brain mask has it
    assert to_regions(mask, {"brain": {1}}, regions=("brain",)).ravel().tolist() == [0, 1]
