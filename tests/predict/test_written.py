"""What is scored is what is written: other spacings, brain masks, small components."""

import dataclasses

import nibabel
import numpy as np
import pytest

from fp4jax import metrics
from fp4jax.data.nifti import VolumeSet, find_cases, read_volume, save_prediction, to_regions
from fp4jax.inference import Segmentation, without_small
from fp4jax.train.volumes.data import save
from fp4jax.train.volumes.scoring import region_report
from fp4jax.train.volumes.written import on_own_grid, written
from tests import brains

REGIONS = ("whole_tumour", "tumour_core", "enhancing")


@pytest.fixture
def case(tmp_path):
    """Voxels of the case, on its own grid; the label map is nested boxes."""
    brains.brats(tmp_path / "set", ["BraTS20_Training_001"])
    return find_cases(tmp_path / "set")[0]


def loaded(case, spacing=None):
    return VolumeSet([case], spacing=spacing, cache=False).load(0)


def guess(one, seed=0) -> Segmentation:
    """Random masks that contradict each other."""
    rng = np.random.default_rng(seed)
    p = rng.random((*one.image.shape[:3], 3)).astype(np.float32)
    return Segmentation((p > 0.7).astype(np.uint8), p)


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0), (0.7, 1.5, 3.0)])
def test_scores_are_those_of_the_file(spacing, case, tmp_path):
    one = loaded(case, spacing)
    own, found = written(one, guess(one))
    save(tmp_path / "map.nii.gz", found.masks, own)
    maps = [read_volume(path, dtype=np.int16) for path in (tmp_path / "map.nii.gz", case.label)]
    assert maps[0].data.shape == maps[1].data.shape == own.target.shape[:3]
    masks = [to_regions(volume.data, "brats2020") for volume in maps]
    expected = metrics.region_report(*masks, REGIONS, maps[1].spacing)
    assert region_report(found.masks, own) == expected
    assert found.probabilities.shape == own.target.shape
    save_prediction(tmp_path / "p.nii.gz", found.probabilities, own)
    assert nibabel.load(tmp_path / "p.nii.gz").shape == (*nibabel.load(case.label).shape, 3)


def test_maps_are_written_as_they_always_were(case, tmp_path):
    """The label map of the network's grid, by the nearest voxel."""
    one = loaded(case, (2.0, 2.0, 2.0))
    own, found = written(one, guess(one))
    for name, masks, of in (("a", guess(one).masks, one), ("b", found.masks, own)):
        save(tmp_path / f"{name}.nii.gz", masks, of)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    same = loaded(case)
    assert on_own_grid(same) is same


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0)])
def test_a_brain_mask_restricts_what_is_found(spacing, case, tmp_path):
    inside = np.zeros(brains.SHAPE, np.uint8)
    inside[2:7, 2:8, 2:6] = 1
    path = brains.write(tmp_path / "brain.nii.gz", inside)
    case = dataclasses.replace(case, mask=path)
    one = loaded(case, spacing)
    everywhere = np.ones((*one.image.shape[:3], 3), np.uint8)
    _, found = written(one, Segmentation(everywhere, everywhere.astype(np.float32)))
    brain = brains.ras(inside).astype(bool)
    assert found.masks[brain].all()
    assert not found.masks[~brain].any()
    assert not found.probabilities[~brain].any()


def test_small_components_are_removed_if_asked_for(case):
    one = loaded(case)
    masks = np.zeros((*one.image.shape[:3], 3), np.uint8)
    masks[1:4, 1:4, 1:4, 0] = 1  # 27 voxels, of which 1 is of the core
    masks[2, 2, 2, :2] = 1
    masks[6:8, 6, 6] = 1  # 2 voxels of everything
    found = Segmentation(masks, masks.astype(np.float32))
    voxel = float(np.prod(one.spacing)) / 1000
    counts = {
        least: written(one, found, min_component=least * voxel)[1].masks.sum((0, 1, 2)).tolist()
        for least in (0, 2, 3, 27, 28)
    }
    assert counts == {
        0: [29, 3, 2],
        2: [29, 2, 2],
        3: [27, 0, 0],
        27: [27, 0, 0],
        28: [0, 0, 0],
    }


def test_components_are_connected_by_faces():
    mask = np.zeros((4, 4, 1), np.uint8)
    mask[0, 0], mask[1, 1] = 1, 1
    assert not without_small(mask, 2).any()
    mask[0, 1] = 1
    assert without_small(mask, 3).sum() == 3
