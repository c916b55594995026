"""Folders as nobody planned them: each is read rightly, or refused with one clear ValueError.

A seed makes a folder: layout, names, links, clutter, sizes, types, headers, label values, and
damage. Whatever is read is compared with what was written.
"""

import gzip
import json
import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fp4jax import data
from fp4jax.data import nifti
from fp4jax.data.folders import readable
from tests.brains import LPS

nibabel = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")

CLUTTER = (
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "__pycache__",
    ".snapshot",
    "__MACOSX",
    "System Volume Information",
    "#recycle",
    ".ipynb_checkpoints",
)
FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._{}", "notes.txt", "~${}.docx")
SHAPES = ((5, 6, 4), (4, 4, 4), (1, 5, 5))
TYPES = (np.int16, np.uint8, np.float32, np.float64, np.uint16, np.int8)
NAMES = (
    *("P{:03d}", "sub-{:02d}", "Müller {}", "case_{}_1", "{:04d}", "a b-{}", "x_{}[1]"),
    "T{}_2019-01-11",
)
SPOILT = (b"", b"<html>", b"version https://git-lfs.github.com\n", b"PK\3\4")


class Folder:
    """A folder on disk, and what was written into it."""

    def __init__(self, root, seed):
        self.root, self.rng = root, np.random.default_rng(seed)
        self.damaged = False
        self.images, self.labels = {}, {}
        root.mkdir()

    def one(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, share):
        return self.rng.random() < share

    def clutter(self, folder):
        if self.chance(0.3):
            name = self.one(*CLUTTER)
            (folder / name).mkdir(exist_ok=True)
            if self.chance(0.5):
                (folder / name / "x_flair.nii.gz").write_bytes(b"x")
        if self.chance(0.3):
            (folder / self.one(*FILES).format("a.nii.gz")).write_bytes(b"\0" * 9)
        if self.chance(0.1) and not (folder / "again").is_symlink():
            (folder / "again").symlink_to(self.root, target_is_directory=True)

    def damage(self, path):
        """Spoils a file in one of the ways that files are spoilt in."""
        if not self.chance(0.06):
            return
        self.damaged = True
        content = path.read_bytes()
        kind = self.rng.integers(6)
        if kind == 0:
            path.write_bytes(content[: int(self.rng.integers(len(content)))])
        elif kind == 1:
            spoilt = bytearray(content)
            for place in self.rng.integers(len(content), size=8):
                spoilt[place] ^= int(self.rng.integers(1, 256))
            path.write_bytes(bytes(spoilt))
        elif kind == 2:
            path.write_bytes(self.one(*SPOILT))
        elif kind == 3:
            path.unlink()
        elif kind == 4:
            path.unlink()
            path.symlink_to(path.parent / "gone.nii.gz")
        else:
            path.unlink()
            path.mkdir()


def volume(f, path, values, shape, dtype):
    """Writes a volume; returns it in RAS as floats."""
    affine = np.array(f.one(LPS, np.diag([1.0, 2, 3, 1]), np.diag([-1.0, 1, -1, 1])))
    image = nibabel.Nifti1Image(values.astype(dtype), f.affine if f.affine is not None else affine)
    if f.affine is None:
        f.affine = affine
    if f.chance(0.2):
        image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content) if f.chance(0.8) else content
        content = gzip.compress(content) if f.chance(0.1) else content
    elif f.chance(0.1):
        content = gzip.compress(content)
    path.write_bytes(content)
    return nibabel.as_closest_canonical(image).get_fdata(dtype=np.float32)


def volumes(root, seed):
    """A folder of cases; returns it and the options that describe it."""
    f = Folder(root, seed)
    f.affine = None
    layout = f.one("brats2020", "brats2023", "folder", "id", "nnunet1", "nnunet2", "bids", "msd")
    patient, end = f.one(*NAMES), f.one(".nii", ".nii.gz", ".NII.GZ")
    values = f.one((1, 2, 3), (1, 2, 4), (1, 2), (7,), ())
    dtype = f.one(*TYPES)
    cases, ids = int(f.rng.integers(1, 4)), []
    for i in range(cases):
        case = patient.format(i)
        f.affine = None
        shape = f.one(*SHAPES)
        names = {
            "brats2020": (f"{case}/{case}_flair", f"{case}/{case}_t1", f"{case}/{case}_seg"),
            "brats2023": (f"{case}/{case}-t2f", f"{case}/{case}-t1n", f"{case}/{case}-seg"),
            "folder": (f"{case}/FLAIR", f"{case}/T1", f"{case}/seg"),
            "id": (f"im/{case}_0000", f"im/{case}_0001", f"lab/{case}"),
            "nnunet1": (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}"),
            "nnunet2": (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}"),
            "bids": (
                f"sub-{i}/anat/sub-{i}_FLAIR",
                f"sub-{i}/anat/sub-{i}_T1w",
                f"sub-{i}/anat/sub-{i}_dseg",
            ),
            "msd": (f"imagesTr/{case}", f"imagesTr/{case}", f"labelsTr/{case}"),
        }[layout]
        if layout == "bids":
            case = f"sub-{i}"
        ids.append(case)
        paths = [root / f"{name}{end}" for name in names]
        images = [f.rng.integers(1, 100, shape) for _ in range(2)]
        label = np.zeros(shape) if not values else f.rng.choice([0, *values], shape)
        if layout == "msd":
            found = volume(f, paths[0], np.stack(images, -1), shape, dtype)
            f.images[case] = found
        else:
            read = [volume(f, p, v, shape, dtype) for p, v in zip(paths, images, strict=False)]
            f.images[case] = np.stack(read, -1)
        if f.chance(0.85):
            if f.chance(0.05):  # of another shape
                label, f.damaged = label[..., :-1], True
            kind = f.one(np.uint8, np.int16, np.float32)
            f.labels[case] = volume(f, paths[2], label, shape, kind)
            f.damage(paths[2])
        elif layout == "msd":
            f.damaged = True  # its list names the label map
        f.damage(paths[0])
        f.clutter(paths[0].parent)
    f.clutter(root)
    table = "lesion=" + ",".join(map(str, values or (1,)))
    options = {"labels": table, "modalities": ("flair", "t1")}
    if layout == "folder":
        options |= {"layout": "folder", "label": "seg.nii*"}
        options["modalities"] = {"flair": "FLAIR.nii*", "t1": "T1.nii*"}
    if layout == "id":
        options |= {"layout": "folder", "label": "lab/{id}.nii*"}
        options["modalities"] = {"flair": "im/{id}_0000.nii*", "t1": "im/{id}_0001.nii*"}
    if layout.startswith("nnunet") or layout == "msd":
        named = {"0": "FLAIR", "1": "T1"}
        ending = end if layout == "msd" else ".nii.gz"
        record = {
            "labels": {"0": "background", "1": "lesion"},
            "modality": named,
            "training": [
                {"image": f"./imagesTr/{case}{ending}", "label": f"./labelsTr/{case}{ending}"}
                for case in ids
            ],
        }
        if layout == "nnunet2":
            record = {"labels": {"background": 0, "lesion": 1}, "channel_names": named}
            record |= {"file_ending": end, "numTraining": cases}
        text = json.dumps(record)
        if f.chance(0.1):
            text, f.damaged = text[:-1], True
        (root / "dataset.json").write_text(text, encoding=f.one("utf-8", "utf-8-sig"))
    return f, options


def attempt(root, call):
    """(what a call returns, None), or (None, what it refused): that is one clear message."""
    before = sorted(map(str, root.rglob("*")))
    found, refusal = None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = call()
    except ValueError as error:
        refusal = error
    assert sorted(map(str, root.rglob("*"))) == before
    if refusal is None:
        return found, None
    text = str(refusal)
    assert not isinstance(refusal, UnicodeError), text
    assert len(text) > 20, text
    assert len(text.splitlines()) <= 14, text
    return None, text


def check_volumes(root, seed):
    f, options = volumes(root, seed)
    cache = root.parent / f"{root.name}_cache"

    def opened():
        found = nifti.find_cases(root, **options)
        cases = [case for case in found if case.label is not None]
        if not cases:
            return None
        volumes = nifti.VolumeSet(cases, ("flair", "t1"), ("lesion",), cache=cache)
        volumes.prepare(workers=1)
        return volumes

    found, refusal = attempt(root, opened)
    assert not list(cache.glob("volumes/.*"))
    if f.damaged or found is None:
        assert f.damaged or refusal is None, refusal
        return refusal
    for i, case in enumerate(found.cases):
        one = found.load(i)
        (name,) = (name for name in f.images if readable(name) == case.id)
        for channel, values in enumerate(np.moveaxis(f.images[name], -1, 0)):
            inside = one.image[..., channel] != 0
            expected = (values - values.mean()) / values.std()
            np.testing.assert_allclose(
                one.image[..., channel][inside], expected[inside], atol=5e-3, rtol=5e-3
            )
        np.testing.assert_array_equal(one.target[..., 0], f.labels[name] > 0)
    return None


def slices(root, seed):
    """A folder like kaggle_3m."""
    f = Folder(root, seed)
    for i in range(int(f.rng.integers(1, 4))):
        patient = f.one("TCGA_AA_{}_20000101", "P{}", "Müller {}", "P_{}_2001-02-03").format(i)
        size = 8
        for number in range(1, int(f.rng.integers(1, 4)) + 1):
            image = f.rng.integers(0, 256, (size, size, 3), np.uint8)
            if f.chance(0.03):
                image, f.damaged = image[:-1], True
            mask = np.where(f.rng.random((size, size)) < 0.2, 255, 0).astype(np.uint8)
            if f.chance(0.03):
                mask, f.damaged = mask // 2, True
            folder = root / patient
            folder.mkdir(exist_ok=True)
            end = f.one(".tif", ".tif", ".TIF", ".tiff")
            paths = folder / f"{patient}_{number}{end}", folder / f"{patient}_{number}_mask{end}"
            tifffile.imwrite(paths[0], image, photometric="rgb")
            tifffile.imwrite(paths[1], mask, photometric="minisblack")
            f.images[patient, number], f.labels[patient, number] = image, mask
            for path in paths:
                f.damage(path)
        f.clutter(folder)
    f.clutter(root)
    return f


def check_slices(root, seed):
    f = slices(root, seed)
    cohort, refusal = attempt(root, lambda: data.load("lgg", root))
    if f.damaged or cohort is None:
        assert f.damaged, refusal
        return refusal
    assert len(cohort) == len(f.images)
    for image, mask, patient, number in zip(
        cohort.images, cohort.masks, cohort.patient_ids, cohort.slice_index, strict=True
    ):
        np.testing.assert_array_equal(image, f.images[patient, number])
        np.testing.assert_array_equal(mask, f.labels[patient, number] > 0)
    return None


@pytest.mark.parametrize("check", [check_volumes, check_slices])
def test_some_folders(tmp_path, check):
    said = [check(tmp_path / str(seed), seed) for seed in range(40)]
    read = sum(text is None for text in said)
    assert 5 < read < 40


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_volumes, check_slices])
@pytest.mark.timeout(3600)
def test_a_thousand_folders(tmp_path_factory, check):
    @settings(
        max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.integers(0, 2**32 - 1))
    def one(seed):
        root = tmp_path_factory.mktemp("folder")
        check(root / f"{seed}_{os.getpid()}", seed)

    one()
