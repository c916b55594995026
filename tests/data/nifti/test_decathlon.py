"""Tasks of the Medical Segmentation Decathlon: 4-D images, labels by name."""

import json

import numpy as np
import pytest

from fp4jax.data.nifti import LABELS, find_cases, save_prediction, to_labels, to_regions
from tests.brains import LPS, SHAPE, decathlon, ras
from tests.data.reading import loaded, refused, z_scores

nibabel = pytest.importorskip("nibabel")


def test_decathlon(tmp_path):
    names = ("FLAIR", "T1w", "t1gd", "T2w")
    brain = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
    ids = ("BRATS_001", "BRATS_002")
    task = tmp_path / "Task01_BrainTumour"
    content = decathlon(task, ids, names, brain, test=("BRATS_485",))
    cases = find_cases(tmp_path)
    assert [(c.id, c.layout, c.label is None) for c in cases] == [
        ("BRATS_001", "msd", False),
        ("BRATS_002", "msd", False),
        ("BRATS_485", "msd", True),
    ]
    assert cases[0].table == LABELS["msd"]
    images, labels = content["BRATS_001"]
    case = loaded(cases, ("t1c", "flair"))
    expected = np.stack([z_scores(ras(images[..., m])) for m in (2, 0)], axis=-1)
    np.testing.assert_allclose(case.image, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(case.target, to_regions(ras(labels), "msd"))
    assert case.geometry.source_shape == (*SHAPE, 4)
    np.testing.assert_array_equal(case.reference.data, ras(images[..., 2]))
    written = nibabel.load(
        save_prediction(tmp_path / "p.nii.gz", to_labels(case.target, cases[0].table), case)
    )
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels)
    np.testing.assert_array_equal(written.affine, LPS)
    (task / "imagesTr" / "BRATS_002.nii.gz").unlink()
    refused(lambda: find_cases(task), "BRATS_002: its image", "is missing")
    (task / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}}))
    refused(lambda: find_cases(task), "dataset.json", "KeyError: 'labels'")


def test_other_decathlon_tasks(tmp_path):
    """Labels in another order, and tasks with one modality and other organs."""
    swapped = ("background", "enhancing tumour", "edema", "non-enhancing tumor")
    decathlon(tmp_path / "a", ("x",), ("FLAIR", "T1w"), swapped)
    assert find_cases(tmp_path / "a")[0].table == {
        "whole_tumour": {1, 2, 3},
        "tumour_core": {1, 3},
        "enhancing": {1},
    }
    decathlon(tmp_path / "b", ("x",), ("CT",), ("background", "liver", "Cancer"), values=(1, 2))
    cases = find_cases(tmp_path / "b")
    assert cases[0].modalities == ("ct",)
    case = loaded(cases, regions=("foreground", "liver", "cancer"))
    assert case.target.sum(axis=(0, 1, 2)).tolist() == [120, 72, 48]
    refused(lambda: find_cases(tmp_path), "a, b", "folder of one of them")
    refused(lambda: find_cases(tmp_path / "b", modalities=("flair",)), "no modality flair", "ct")
