"""Volumes in the cache, patches drawn from them, and slices as a cohort."""

import os
import threading

import numpy as np
import pytest

from fp4jax import data
from fp4jax.data.contents import fingerprint
from fp4jax.data.nifti import PatchSampler, VolumeSet, find_cases, read_volume, save_prediction
from fp4jax.data.nifti.pool import ordered
from tests.brains import SHAPE, brats, label, volume, write
from tests.data.reading import refused

pytest.importorskip("nibabel")

BRAIN = tuple(n - 2 for n in SHAPE)


@pytest.fixture
def root(tmp_path):
    """Seven cases; the last is the second examination of the first patient."""
    ids = [f"BraTS-GLI-{i:05d}-000" for i in range(6)]
    brats(tmp_path / "BraTS2023", [ids[0], "BraTS-GLI-00000-001", *ids[1:]], "brats2023", (2, 1, 3))
    return tmp_path / "BraTS2023"


def entries(cache):
    return sorted(path.name for path in (cache / "volumes").iterdir())


# ------------------------------------------------------------------------------------------- cache


def test_cache(root, tmp_path, monkeypatch):
    """What comes from the cache is what would be prepared; changes and damage are noticed."""
    cache = tmp_path / "cache"
    cases = find_cases(root)
    fresh = VolumeSet(cases, ("t1c", "flair"), cache=False).load(2)
    stored = VolumeSet(cases, ("t1c", "flair"), cache=cache)
    for _ in range(2):
        case = stored.load(2)
        for name in ("image", "target", "affine"):
            np.testing.assert_array_equal(getattr(case, name), getattr(fresh, name))
        assert (case.spacing, case.regions) == (fresh.spacing, fresh.regions)
    (name,) = entries(cache)
    prepared = stored.prepared(2)
    assert prepared.image.shape == (BRAIN[2], BRAIN[0], BRAIN[1], 2)  # cropped to the brain
    assert not prepared.image.flags.owndata  # mapped, not read
    # Half an entry, or one that belongs to other options, is made again.
    (cache / "volumes" / name / "bits.npy").write_bytes(b"")
    case = VolumeSet(cases, ("t1c", "flair"), cache=cache).load(2)
    np.testing.assert_array_equal(case.target, fresh.target)
    VolumeSet(cases, ("flair",), cache=cache).load(2)
    VolumeSet(cases, ("t1c", "flair"), ("enhancing",), cache=cache).load(2)
    VolumeSet(cases, ("t1c", "flair"), spacing=(2, 2, 2), cache=cache).load(2)
    assert len(entries(cache)) == 4
    # A file that changes is noticed.
    path, _ = cases[2].image("t1c")
    write(path, volume(99).astype(np.int16))
    os.utime(path, ns=(1, 1))
    changed = VolumeSet(cases, ("t1c", "flair"), cache=cache).load(2)
    assert not np.array_equal(changed.image, fresh.image)
    # The folder by default, in parallel.
    monkeypatch.setenv("FP4JAX_CACHE", str(tmp_path / "default"))
    VolumeSet(cases).prepare(workers=2)
    assert len(entries(tmp_path / "default")) == 7
    (tmp_path / "file").touch()
    refused(
        lambda: VolumeSet(cases, cache=tmp_path / "file").load(0), "FP4JAX_CACHE", "cache=False"
    )


def test_volume_set_refuses(root):
    cases = find_cases(root)
    refused(lambda: VolumeSet([]), "no cases")
    refused(lambda: VolumeSet(cases, ("adc",)), "'adc'", "flair, t1, t1c, t2")
    refused(lambda: VolumeSet(cases, regions=("core",)), "core", "tumour_core")
    refused(lambda: VolumeSet(cases, cache=True), "name a folder")
    refused(lambda: VolumeSet(cases, spacing=(1, 1)), "three lengths")
    assert VolumeSet(cases, cache=False).patients.count("BraTS-GLI-00000") == 2


# ----------------------------------------------------------------------------------------- patches


@pytest.fixture
def volumes(root, tmp_path):
    return VolumeSet(find_cases(root), ("t1", "flair"), cache=tmp_path / "cache")


def corners(volumes, images):
    """The case and the first voxel of each patch: no two voxels have the same two values."""
    places = {
        tuple(values): (i, *np.unravel_index(at, SHAPE))
        for i in range(len(volumes))
        for at, values in enumerate(volumes.load(i).image.reshape(-1, 2).tolist())
    }
    return [places[tuple(values)] for values in images[:, 0, 0, 0].tolist()]


def test_patches_are_pieces_of_volumes(volumes):
    sampler = PatchSampler(volumes, None, (5, 4, 3), batch_size=3, seed=4, workers=2)
    assert sampler.steps_per_epoch == 3
    batches = list(sampler.batches(0))
    assert [images.shape for images, _ in batches] == [(3, 5, 4, 3, 2)] * 3
    assert [(t.shape, t.dtype) for _, t in batches] == [((3, 5, 4, 3, 3), np.uint8)] * 3
    images, targets = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    found = corners(volumes, images)
    for (i, x, y, z), image, target in zip(found, images, targets, strict=True):
        case = volumes.load(i)
        piece = slice(x, x + 5), slice(y, y + 4), slice(z, z + 3)
        np.testing.assert_array_equal(image, case.image[piece])
        np.testing.assert_array_equal(target, case.target[piece])
    # Every case once, then the first ones again to fill the last batch.
    order = [i for i, *_ in found]
    assert sorted(order[:7]) == list(range(7))
    assert order[7:] == order[:2]


def test_any_step_again(volumes):
    """A batch is a function of seed, epoch and step; threads and earlier batches change nothing."""
    options = {"patch_size": (4, 4, 4), "batch_size": 2, "patches_per_case": 2}
    one = PatchSampler(volumes, range(5), **options, seed=1, workers=1, prefetch=1)
    memory = VolumeSet(volumes.cases, ("t1", "flair"), cache=False)
    many = PatchSampler(memory, range(5), **options, seed=1, workers=4, prefetch=8)
    whole = list(one.batches(3))
    assert len(whole) == one.steps_per_epoch == 5
    rest = list(many.batches(3, start_step=2))
    alone = [many.batch(3, step) for step in (2, 3, 4)]
    for same in (rest, alone):
        for a, b in zip(whole[2:], same, strict=True):
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])
    assert list(one.batches(3, start_step=5)) == []
    others = (one.batch(4, 2), PatchSampler(volumes, range(5), **options, seed=2).batch(3, 2))
    assert not any(np.array_equal(whole[2][0], other) for other, _ in others)
    for call in (
        lambda: one.batch(0, 5),
        lambda: one.batches(0, start_step=6),
        lambda: one.batch(-1, 0),
    ):
        refused(call, "steps from 0")


def test_foreground(volumes):
    """Half of the patches are around a region, and each region gets a third of these."""
    options = {"batch_size": 300, "patches_per_case": 60, "seed": 3}

    def centres(foreground):
        sampler = PatchSampler(volumes, [1, 3], (1, 1, 1), foreground=foreground, **options)
        return sampler.batch(0, 0)[1][:, 0, 0, 0]

    always = centres(1)
    assert always[:, 0].all()
    # A voxel of enhancing tumour (12 of 120) is drawn for any of the three regions.
    expected = (1 + 12 / 48 + 12 / 120) / 3
    assert abs(always[:, 2].mean() - expected) < 0.08
    share = 120 / np.prod(BRAIN)
    assert abs(centres(0)[:, 0].mean() - share) < 0.06
    assert abs(centres(0.5)[:, 0].mean() - (1 + share) / 2) < 0.08
    # Odd and even sizes alike: the voxel drawn is in the middle, where the brain's box allows it.
    for size in (3, 4):
        sampler = PatchSampler(volumes, [1], (size,) * 3, foreground=1, batch_size=40)
        middle = sampler.batch(0, 0)[1][:, size // 2, size // 2, size // 2, 0]
        assert middle.mean() > 0.9


def test_slices_and_padding(volumes):
    sampler = PatchSampler(volumes, [2], (16, 16, 1), batch_size=4)
    images, targets = sampler.batch(0, 0)
    assert (images.shape, targets.shape) == ((4, 16, 16, 1, 2), (4, 16, 16, 1, 3))
    case = volumes.load(2)
    planes = [case.image[1:-1, 1:-1, k] for k in range(SHAPE[2])]
    for image in images:
        low = [(16 - n) // 2 for n in BRAIN[:2]]
        inner = image[low[0] : low[0] + BRAIN[0], low[1] : low[1] + BRAIN[1], 0]
        assert any(np.array_equal(inner, plane) for plane in planes)
        assert np.count_nonzero(image) == np.count_nonzero(inner)  # zeros on both sides
    images, _ = PatchSampler(volumes, [2], (16, 4, 20), batch_size=1).batch(0, 0)
    assert images.any(axis=(0, 2, 4))[2:14, 6:14].all()
    assert not images[:, :2].any()
    assert not images[:, :, :, :6].any()


def test_cases_without_tumour(tmp_path):
    brats(tmp_path, ("BraTS20_Training_001",), values=())
    volumes = VolumeSet(find_cases(tmp_path), cache=tmp_path / "cache")
    images, targets = PatchSampler(volumes, foreground=1, patch_size=(4, 4, 4)).batch(0, 0)
    assert images.all()
    assert not targets.any()


def test_errors_reach_the_training_and_threads_end(volumes):
    before = threading.active_count()
    sampler = PatchSampler(volumes, None, (4, 4, 4), patches_per_case=8, workers=3)
    iterator = sampler.batches(0)
    next(iterator)
    iterator.close()  # as a training does that stops early
    assert threading.active_count() == before
    path, _ = volumes.cases[3].image("t1")
    path.write_bytes(path.read_bytes()[:200])
    broken = VolumeSet(volumes.cases, ("t1",), cache=False)
    refused(lambda: list(PatchSampler(broken, None, (4, 4, 4)).batches(0)), path, "truncated")
    refused(lambda: broken.prepare(workers=2), path)
    assert threading.active_count() == before


def test_bounded_work():
    started = []
    results = ordered(lambda i: started.append(i) or i, range(100), workers=2, ahead=3)
    assert [next(results) for _ in range(5)] == list(range(5))
    results.close()
    assert len(started) <= 5 + 3


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"patch_size": (4, 4)}, ("three numbers", "(240, 240, 1)")),
        ({"patch_size": (4, 4, 0)}, ("(4, 4, 0)",)),
        ({"batch_size": 0}, ("batch_size is 0",)),
        ({"foreground": 1.5}, ("1.5", "0 to 1")),
        ({"indices": (7,)}, ("from 0 to 6",)),
        ({"indices": ()}, ("one or more",)),
        ({"workers": 0}, ("workers is 0",)),
    ],
)
def test_sampler_refuses(volumes, options, texts):
    refused(lambda: PatchSampler(volumes, **options), *texts)


def test_sampler_needs_labels(tmp_path):
    brats(tmp_path, ("BraTS20_Validation_001",), seg=False)
    volumes = VolumeSet(find_cases(tmp_path), cache=False)
    refused(lambda: PatchSampler(volumes), "BraTS20_Validation_001", "no label map")
    refused(lambda: data.load("brats", tmp_path), "None of the 1 cases", "label map")


# ------------------------------------------------------------------------------------------ slices


def test_cohort(root, tmp_path):
    cache = tmp_path / "cache"
    options = {"modalities": ("flair", "t1c"), "window": (0, 100), "cache": cache}
    cohort = data.load("brats", root, **options)
    assert (cohort.name, cohort.channels) == ("brats2023", ("flair", "t1c"))
    assert isinstance(cohort.images, np.memmap)
    depth = BRAIN[2]
    assert cohort.images.shape == (7 * depth, SHAPE[1], SHAPE[0], 2)
    # Two examinations are one patient, whose second volume's slices count on.
    assert cohort.patient_ids[: 3 * depth : depth].tolist() == ["BraTS-GLI-00000"] * 2 + [
        "BraTS-GLI-00001"
    ]
    first = [*range(1, 1 + depth), *range(1 + SHAPE[2], 1 + SHAPE[2] + depth)]
    assert cohort.slice_index[: 2 * depth].tolist() == first
    case = find_cases(root)[0]
    flair = read_volume(case.image("flair")[0]).data
    expected = np.where(flair > 0, np.rint((flair - 1) / (flair.max() - 1) * 255), 0)
    truth = read_volume(case.label).data > 0
    for k in range(depth):
        # Rows from anterior to posterior, columns from the patient's right to the left.
        np.testing.assert_array_equal(cohort.images[k, ..., 0], expected[::-1, ::-1, k + 1].T)
        np.testing.assert_array_equal(cohort.masks[k], truth[::-1, ::-1, k + 1].T)
    whole = fingerprint(cohort)["sha256"]
    assert fingerprint(data.load("brats", root, **options | {"cache": False}))["sha256"] == whole
    assert fingerprint(data.load("brats", root, **options))["sha256"] == whole
    assert len(list((cache / "slices").iterdir())) == 1  # found again
    core = data.load("brats", root, target="tumour_core", **options)
    assert 0 < core.masks.sum() < cohort.masks.sum()
    small = data.load("brats", root, image_size=24, workers=1, **options)
    assert small.images.shape[1:] == (24, 24, 2)
    # Cropped to 12 x 10 voxels, padded to 12 x 12, doubled.
    assert not small.images[:, [0, -1]].any()
    assert small.images[:, 2:-2].any(axis=(0, 3)).all()
    assert small.masks.sum() == 4 * cohort.masks.sum()


def test_cohort_of_unequal_volumes(root, tmp_path):
    options = {"cache": tmp_path / "cache", "modalities": ("t1",)}
    folder = root / "BraTS-GLI-00003-000"
    write(folder / f"{folder.name}-t1n.nii.gz", volume(1, (20, 12, 9)))
    write(folder / f"{folder.name}-seg.nii.gz", label((2, 1, 3), (20, 12, 9)))
    refused(lambda: data.load("brats", root, **options), folder.name, "pass image_size")
    assert len(data.load("brats", root, image_size=16, **options).patients) == 6
    (folder / f"{folder.name}-t1n.nii.gz").write_bytes(b"")
    options["image_size"] = 16
    refused(
        lambda: data.load("brats", root, **options), "1 problem", folder.name, 'on_error="skip"'
    )
    with pytest.warns(UserWarning, match=rf"left out. 1 problem in .*{folder.name}"):
        cohort = data.load("brats", root, on_error="skip", **options)
    assert len(cohort.patients) == 5
    assert not list((tmp_path / "cache" / "slices").glob(".*"))


@pytest.mark.parametrize(
    ("name", "options", "texts"),
    [
        ("brats", {"image_size": 0}, ("image_size is 0",)),
        ("brats", {"window": (99, 1)}, ("(99, 1)", "percentiles")),
        ("brats", {"on_error": "ignore"}, ("'ignore'",)),
        ("brats", {"target": "core"}, ("core", "tumour_core")),
        ("brats", {"modalities": ("adc",)}, ("adc",)),
        ("brats", {"cache": True}, ("name a folder",)),
        ("msd", {}, ("no dataset.json",)),
        ("msd", {"layout": "brats2020"}, ("'msd' has layout 'msd'",)),
    ],
)
def test_cohort_refuses(root, name, options, texts):
    refused(lambda: data.load(name, root, **options), *texts)


def test_real_patches_and_slices(shared, tmp_path):
    options = {
        "layout": "folder",
        "modalities": {"flair": "Flair*.nii.gz", "t1c": "T1c*.nii.gz"},
        "label": "OTMultiClass*.nii.gz",
        "labels": "brats2013",
    }
    volumes = VolumeSet(find_cases(shared / "brats_sample", **options), cache=tmp_path)
    sampler = PatchSampler(volumes, batch_size=4, foreground=1)
    images, targets = sampler.batch(0, 0)
    assert images.shape == (4, 64, 64, 64, 2)
    assert targets.any(axis=(1, 2, 3, 4)).all()
    assert 0.3 < images.std() < 3
    case = volumes.load(0)
    save_prediction(tmp_path / "p.nii.gz", case.target, case)
    again = read_volume(tmp_path / "p.nii.gz", channels=(0, 1, 2)).data
    np.testing.assert_array_equal(again, case.target)
    cohort = data.load("brats", shared / "brats_sample", image_size=96, cache=tmp_path, **options)
    assert cohort.patients == ("brats_2013_pat0005",)
    inside = cohort.images[..., 0][cohort.masks == 1]
    outside = cohort.images[..., 0][(cohort.masks == 0) & (cohort.images[..., 0] > 0)]
    assert inside.mean() > outside.mean() + 30  # oedema is bright in FLAIR
    assert 0.3 < cohort.positive.mean() < 0.7
