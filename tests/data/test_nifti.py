"""NIfTI files in every layout: found, read, refused where they are wrong, written back."""

import gzip
import itertools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.data.nifti import (
    LABELS,
    Case,
    VolumeSet,
    find_cases,
    read_volume,
    save_prediction,
    to_labels,
    to_regions,
)
from tests.brains import LPS, SHAPE, brats, decathlon, label, ras, volume, write

nibabel = pytest.importorskip("nibabel")


def z_scores(data):
    inside = data[data != 0].astype(np.float64)
    return np.where(data != 0, (data - inside.mean()) / inside.std(), 0)


def loaded(cases, modalities=None, **options):
    return VolumeSet(cases, modalities, cache=False, **options).load(0)


def refused(call, *texts):
    with pytest.raises(ValueError, match=r".") as error:
        call()
    for text in texts:
        assert str(text) in str(error.value)
    assert len(str(error.value).splitlines()) <= 14


# ------------------------------------------------------------------------------------ label tables


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


# ------------------------------------------------------------------------------------- orientation


def oblique(spacing=(1.0, 1.5, 4.0)):
    a, b = 0.3, -0.2
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ about_x @ np.diag(spacing)
    affine[:3, 3] = (-50, 12.5, 7)
    return affine


def test_every_orientation(tmp_path):
    """All 48 orders and directions of the axes are read alike, and written back as they were."""
    data, affine = volume(0, (5, 6, 7)), oblique()
    affines = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.array(list(zip(order, signs, strict=True)))
            stored = nibabel.orientations.apply_orientation(data, turn)
            to_stored = affine @ nibabel.orientations.inv_ornt_aff(turn, data.shape)
            path = write(tmp_path / "x.nii", stored, to_stored)
            read = read_volume(path)
            np.testing.assert_array_equal(read.data, data)
            np.testing.assert_allclose(read.affine, affine, atol=1e-4)
            np.testing.assert_allclose(read.spacing, (1, 1.5, 4), atol=1e-4)
            affines.append(read.orientation)
            case = loaded([Case("x", "folder", (("t1", path, None),), None)], ("t1",), regions=())
            out = save_prediction(tmp_path / "y.nii", data.astype(np.uint16), case, overwrite=True)
            written, source = nibabel.load(out), nibabel.load(path)
            np.testing.assert_array_equal(np.asanyarray(written.dataobj), stored)
            np.testing.assert_array_equal(written.affine, source.affine)
    assert len(set(affines)) == 48


def test_directory_and_singleton_axes(tmp_path):
    """Unpacked folders named x.nii, and 3-D volumes stored as 4-D."""
    data = volume(1)
    write(tmp_path / "case_flair.nii" / "00000057_brain.nii", data[..., None])
    (tmp_path / "case_flair.nii" / "._00000057_brain.nii").write_bytes(b"x")
    read = read_volume(tmp_path / "case_flair.nii")
    np.testing.assert_array_equal(read.data, ras(data))
    assert read.path.name == "00000057_brain.nii"
    four = write(tmp_path / "four.nii", np.stack([data, 2 * data], axis=-1))
    np.testing.assert_array_equal(read_volume(four, channels=(1,)).data[..., 0], ras(2 * data))
    scaled = write(tmp_path / "s.nii", data, change=lambda i: i.header.set_slope_inter(2, 1))
    assert read_volume(scaled).data.dtype == np.float32


def damaged(tmp_path):
    """(file, what the message has) of everything that can be wrong with one file."""
    data = volume(2, (30, 30, 20))
    packed, plain = write(tmp_path / "a.nii.gz", data), write(tmp_path / "b.nii", data)
    for path, keep in ((packed, 0.5), (plain, 0.5), (packed, 0.001), (plain, 0.001)):
        cut = tmp_path / f"cut{keep}_{path.name}"
        content = path.read_bytes()
        cut.write_bytes(content[: int(keep * len(content))])
        yield cut, ("truncated", "unpack it again")
    flipped = bytearray(packed.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (tmp_path / "bits.nii.gz").write_bytes(bytes(flipped))
    yield tmp_path / "bits.nii.gz", ("damaged",)
    (tmp_path / "text.nii.gz").write_text("<html>404</html>")
    yield tmp_path / "text.nii.gz", ("not a NIfTI file",)
    (tmp_path / "inner.nii.gz").write_bytes(gzip.compress(b"no image"))
    yield tmp_path / "inner.nii.gz", ("not a NIfTI file",)
    (tmp_path / "empty.nii").touch()
    yield tmp_path / "empty.nii", ("0 bytes",)
    shutil.copy(plain, tmp_path / "scan.mgz")
    yield tmp_path / "scan.mgz", ("convert it",)
    yield tmp_path / "none.nii", ("does not exist",)
    (tmp_path / "many.nii").mkdir()
    for name in ("c.nii", "d.nii"):
        shutil.copy(plain, tmp_path / "many.nii" / name)
    yield tmp_path / "many.nii", ("folder with 2 NIfTI files",)
    yield write(tmp_path / "2d.nii", data[..., 0]), ("(30, 30)", "three axes", "Stack")
    yield write(tmp_path / "4d.nii", np.stack([data, data], -1)), ("(30, 30, 20, 2)", "Split")
    for bad in (np.nan, np.inf):
        wrong = data.copy()
        wrong[3, 4, 5] = bad
        yield write(tmp_path / f"{bad}.nii", wrong), ("1 voxels that are NaN", "nan_to_num")
    yield write(tmp_path / "huge.nii", data.astype(np.float64) * 1e300), ("infinite in float32",)
    yield write(tmp_path / "complex.nii", data.astype(np.complex64)), ("complex64",)

    singular = bytearray(plain.read_bytes())
    singular[312:328] = singular[296:312]  # the last row of the affine as the one before
    (tmp_path / "singular.nii").write_bytes(bytes(singular))
    yield tmp_path / "singular.nii", ("affine", "Repair")


def test_damaged_files(tmp_path):
    for path, texts in damaged(tmp_path):
        refused(lambda path=path: read_volume(path), path, *texts)


# ----------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("folder", "ids", "suffixes", "layout", "values"),
    [
        ("TrainingData", ("BraTS20_Training_001", "BraTS20_Training_002"), "brats2020", None, 4),
        ("any", ("BraTS2021_00000", "BraTS2021_00003"), "brats2020", "brats2021", 4),
        ("BraTS2023-GLI", ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001"), "brats2023", None, 3),
        ("BraTS2024-GLI", ("BraTS-GLI-00008-100", "BraTS-MEN-00009-000"), "brats2023", None, 3),
    ],
)
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_brats(tmp_path, folder, ids, suffixes, layout, values, end):
    layout = layout or {"T": "brats2020", "B": folder[:9].lower()}[folder[0]]
    content = brats(tmp_path / folder / "Train", ids, suffixes, (2, 1, values), end=end)
    brats(tmp_path / folder / "Validation", (f"{ids[1][:-1]}9",), suffixes, seg=False)
    cases = find_cases(tmp_path / folder)
    assert [case.layout for case in cases] == [layout] * 2 + [cases[-1].layout]
    assert [case.id for case in cases if case.label] == list(ids)
    assert cases[0].modalities == ("flair", "t1", "t1c", "t2")
    assert find_cases(tmp_path / folder / "Train", layout) == cases[:2]
    images, labels = content[ids[0]]
    case = loaded(cases, ("t1gd", "t2f"))  # any year's names
    expected = np.stack([z_scores(ras(images[..., m])) for m in (2, 0)], axis=-1)
    np.testing.assert_allclose(case.image, expected, rtol=1e-3, atol=1e-4)
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.target, to_regions(ras(labels), layout))
    assert case.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    assert loaded(cases[-1:]).target is None
    if "2024" in layout:
        four = VolumeSet(cases[:2], regions=("resection_cavity", "enhancing"), cache=False)
        assert four.load(1).target.sum() == 12
    assert len({case.patient for case in cases[:2]}) == (1 if "2023" in layout else 2)


def test_case_355_of_2020(tmp_path, caplog):
    brats(tmp_path, ("BraTS20_Training_354", "BraTS20_Training_355"))
    folder = tmp_path / "BraTS20_Training_355"
    renamed = folder / "W39_1998.09.19_Segm.nii.gz"
    (folder / "BraTS20_Training_355_seg.nii.gz").rename(renamed)
    (tmp_path / "name_mapping.csv").write_text("Grade\n")
    assert find_cases(tmp_path)[1].label == renamed
    renamed.unlink()
    assert [case.label is None for case in find_cases(tmp_path)] == [False, True]
    assert "1 of 2 cases have no label map: BraTS20_Training_355" in caplog.text


def test_directories_named_nii(tmp_path):
    brats(tmp_path, ("BraTS20_Training_001",), end=".nii")
    flair = tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_flair.nii"
    before = loaded(find_cases(tmp_path)).image
    flair.rename(tmp_path / "kept.nii")
    flair.mkdir()
    (tmp_path / "kept.nii").rename(flair / "W39.nii")
    np.testing.assert_array_equal(loaded(find_cases(tmp_path)).image, before)


def test_missing_and_double_files(tmp_path):
    ids = ("BraTS20_Training_001", "BraTS20_Training_002")
    brats(tmp_path / "a", ids)
    flair = tmp_path / "a" / ids[1] / f"{ids[1]}_flair.nii.gz"
    flair.unlink()
    refused(
        lambda: find_cases(tmp_path),
        "1 problem",
        f"{ids[1]}: modality flair is missing, {str(flair)[:-3]}",
        "--modalities flair t1c",
    )
    cases = find_cases(tmp_path, modalities=("t1", "t1ce"))
    assert cases[1].modalities == ("t1", "t1c")
    refused(lambda: VolumeSet(cases, ("flair",)), ids[0], "'flair'", "t1, t1c")
    shutil.copytree(tmp_path / "a" / ids[0], tmp_path / "b" / ids[0])
    refused(lambda: find_cases(tmp_path, modalities=("t1",)), f"{ids[0]}: is there twice")
    shutil.rmtree(tmp_path / "b")
    for folder in ("", "BraTS-PED-00001-000"):
        brats(tmp_path / "p" / folder, ("BraTS-PED-00001-000",), "brats2023", seg=not folder)
    refused(lambda: find_cases(tmp_path / "p"), "paediatric", "--patterns, --label")


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, ("No cases in", "dataset.json", "_flair.nii.gz", "--patterns flair")),
        ({"layout": "msd"}, ("no dataset.json",)),
        ({"layout": "brats2023"}, ("named as in brats2023",)),
        ({"layout": "brats"}, ("'brats'", "brats2020, brats2021")),
        ({"layout": "folder"}, ("--patterns flair 'Flair*.nii.gz'",)),
        ({"layout": "folder", "modalities": {"t1": "*.nii"}}, ("no file matches *.nii",)),
        ({"layout": "folder", "modalities": {"t1": "*"}, "label": "*"}, ("--labels brats2013",)),
        ({"modalities": {"t1": "*.nii"}}, ("layout='folder'",)),
        ({"label": "*"}, ("belong to layout 'folder'",)),
        ({"modalities": ("t1", "t1n")}, ("name each once",)),
        ({"layout": "folder", "modalities": {"t1": "{id}", "t2": "a"}}, ("in all of them",)),
        ({"layout": "folder", "modalities": {"t1": "a", "T1w": "b"}}, ("name each once",)),
    ],
)
def test_find_cases_refuses(tmp_path, options, texts):
    (tmp_path / "notes.txt").touch()
    refused(lambda: find_cases(tmp_path, **options), *texts)


def test_no_folder(tmp_path):
    refused(lambda: find_cases(tmp_path / "none"), "none is not a folder")


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


def test_folders_by_pattern(tmp_path, caplog):
    image, mask = volume(5), volume(5) > 0
    for case in ("site1/p1", "site2/p1", "site2/p2"):
        for name in ("Flair_x.nii.gz", "T1c_x.nii.gz"):
            write(tmp_path / case / name, np.where(mask, image, -3.5).astype(np.float32))
        write(tmp_path / case / "truth.nii.gz", label((2, 1, 4)).astype(np.float32))
        write(tmp_path / case / "mask.nii.gz", mask * 0.99999997)
    options = {
        "layout": "folder",
        "modalities": {"flair": "Flair*.nii.gz", "T1ce": "T1c*.nii.gz"},
        "label": "truth*",
        "labels": "brats2013",
    }
    cases = find_cases(tmp_path, **options)
    assert [case.id for case in cases] == ["p2", "site1_p1", "site2_p1"]
    assert cases[0].modalities == ("flair", "t1c")
    # With a brain mask, and without: the value of the corners is the background.
    with_mask = find_cases(tmp_path, mask="mask*", **options)
    expected = z_scores(ras(image))
    for case in (loaded(cases), loaded(with_mask)):
        np.testing.assert_allclose(case.image[..., 1], expected, rtol=1e-3, atol=1e-4)
        assert case.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "p9").symlink_to(tmp_path / "site2" / "p2")
    assert [case.id for case in find_cases(tmp_path / "linked", **options)] == ["p9"]
    (tmp_path / "linked" / "p9").unlink()
    (one,) = find_cases(tmp_path / "site1" / "p1", **options)
    assert one.id == "p1"
    (tmp_path / "site2" / "p2" / "truth.nii.gz").unlink()
    assert [case.id for case in find_cases(tmp_path, **options) if case.label is None] == ["p2"]
    assert "1 of 3 cases have no label map truth*: p2" in caplog.text
    write(tmp_path / "site1" / "p1" / "Flair_old.nii.gz", image)
    (tmp_path / "site2" / "p2" / "T1c_x.nii.gz").unlink()
    refused(
        lambda: find_cases(tmp_path, **options),
        "2 problems",
        "modality flair is there 2 times, Flair_old.nii.gz, Flair_x.nii.gz",
        "p2: modality t1c is missing, no file T1c*",
    )


def test_paths_by_pattern(tmp_path):
    for case in ("a_1", "b_2"):
        write(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", volume(1))
        write(tmp_path / "imagesTr" / f"{case}_0001.nii.gz", volume(2))
        write(tmp_path / "labelsTr" / f"{case}.nii.gz", label((7,)))
    cases = find_cases(
        tmp_path,
        "folder",
        modalities={"flair": "imagesTr/{id}_0000.nii*", "t2": "imagesTr/{id}_0001.nii*"},
        label="labelsTr/{id}.nii.gz",
        labels={"lesion": {7}},
    )
    assert [case.id for case in cases] == ["a_1", "b_2"]
    assert loaded(cases, ("t2",), regions=("lesion",)).target.sum() == 120
    refused(lambda: VolumeSet(cases), "whole_tumour", "lesion")


# ---------------------------------------------------------------------------------- one case's grid


def pair(tmp_path, image, truth, affine=LPS):
    paths = write(tmp_path / "image.nii", image), write(tmp_path / "truth.nii", truth, affine)
    return [Case("one", "brats2020", (("flair", paths[0], None),), paths[1])]


def test_grids_that_differ(tmp_path):
    image, truth = volume(3), label((2, 1, 4))
    moved = LPS.copy()
    moved[0, 3] += 0.0005  # below the tolerance
    loaded(pair(tmp_path, image, truth, moved))
    # Stored in another order of axes, the same place in space: fine.
    turned = LPS @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    same = loaded(pair(tmp_path, image, np.moveaxis(truth, 0, 2), turned[:, [0, 1, 2, 3]]))
    np.testing.assert_array_equal(same.target, to_regions(ras(truth), "brats2020"))
    moved[0, 3] += 1
    files = tmp_path / "image.nii", tmp_path / "truth.nii"
    for affine, data, text in (
        (moved, truth, "affines that differ by up to 1"),
        (LPS, truth[:-1], "shapes (14, 12, 10) and (13, 12, 10)"),
    ):
        cases = pair(tmp_path, image, data, affine)
        refused(lambda cases=cases: loaded(cases), *files, text, "resample_from_to")
    refused(lambda: loaded(pair(tmp_path, image, truth + 1)), files[1], "3, 5", "0, 1, 2, 4")
    refused(lambda: loaded(pair(tmp_path, image * 0, truth)), files[0], "no contrast")


def test_spacing_and_back(tmp_path):
    """A smooth volume survives two resamplings; grids keep their place in space."""
    affine = oblique((1.0, 1.2, 3.0))
    grid = np.stack(np.meshgrid(*map(np.arange, (20, 18, 9)), indexing="ij"), axis=-1)
    place = grid @ affine[:3, :3].T + affine[:3, 3]
    ramp = (place @ (0.4, -0.3, 1.0)).astype(np.float32)
    image = write(tmp_path / "image.nii", ramp - ramp.min() + 1, affine)
    blob = (((place - place[10, 9, 4]) ** 2).sum(axis=-1) < 36).astype(np.uint8)
    truth = write(tmp_path / "truth.nii", 2 * blob, affine)
    source = Case("one", "brats2020", (("t1", image, None),), truth)
    case = loaded([source], spacing=(1, 1, 1))
    assert case.image.shape[:3] == (20, 22, 27)
    np.testing.assert_allclose(case.spacing, 1)
    # The image is a linear function of the place in mm, here as in the file.
    full = loaded([source])
    assert full.image.shape[:3] == (20, 18, 9)
    new = np.stack(np.meshgrid(*map(np.arange, case.image.shape[:3]), indexing="ij"), axis=-1)
    at = new @ case.affine[:3, :3].T + case.affine[:3, 3]
    expected = ((at @ (0.4, -0.3, 1.0)) - ramp.mean()) / ramp.std()
    inner = (slice(1, -1), slice(1, -1), slice(2, -2))
    np.testing.assert_allclose(case.image[(*inner, 0)], expected[inner], atol=3e-3)
    volumes = case.target[..., 0].sum(), 3.6 * blob.sum()
    assert abs(volumes[0] / volumes[1] - 1) < 0.1
    out = save_prediction(tmp_path / "probability.nii.gz", case.image, case)
    back = nibabel.load(out)
    assert back.shape == (20, 18, 9, 1)
    np.testing.assert_array_equal(back.affine, nibabel.load(image).affine)
    np.testing.assert_allclose(
        np.asanyarray(back.dataobj)[..., 0][inner], full.image[(*inner, 0)], atol=5e-3
    )
    out = save_prediction(tmp_path / "labels.nii.gz", to_labels(case.target, "brats2020"), case)
    agree = np.asanyarray(nibabel.load(out).dataobj) == 2 * blob
    assert agree.mean() > 0.995
    refused(lambda: VolumeSet([source], spacing=(1, 0, 1)), "(1, 0, 1)", "three lengths")


# ------------------------------------------------------------------------------------------ writing


def test_header_of_the_source(tmp_path):
    """Scaling, codes, units, description, type: kept, or set for the new values."""

    def scanner(image):
        image.header.set_slope_inter(0.5, -3)
        image.header["descrip"] = b"scanner 7"
        image.header["cal_max"] = 4000
        image.header.set_xyzt_units("mm", "sec")
        image.set_qform(image.affine, code=1)
        image.set_sform(oblique(), code=4)

    path = write(tmp_path / "image.nii.gz", volume(4).astype(np.float32), change=scanner)
    case = loaded([Case("one", "folder", (("t1", path, None),), None)], regions=())
    labels = (case.image[..., 0] > 0).astype(np.int64) * 3
    out = save_prediction(tmp_path / "new" / "labels.nii.gz", jnp.asarray(labels, int), case)
    written, source = nibabel.load(out), nibabel.load(path)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.unique(written.dataobj), [0, 3])
    np.testing.assert_array_equal(case.geometry.to_ras(np.asanyarray(written.dataobj)), labels)
    for field in ("qform_code", "sform_code", "pixdim", "srow_x", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(written.header[field], source.header[field])
    for field in ("xyzt_units", "descrip"):
        assert written.header[field] == source.header[field]
    assert written.header["cal_max"] == 0
    assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)
    first = out.read_bytes()
    save_prediction(out, labels.astype(bool) * 3, case, overwrite=True)
    assert out.read_bytes() == first  # reproducible to the byte
    probabilities = jnp.full((*labels.shape, 2), 0.25, jnp.bfloat16)
    four = nibabel.load(save_prediction(tmp_path / "p.nii", probabilities, case))
    assert (four.shape, four.get_data_dtype()) == ((*SHAPE, 2), np.float32)
    np.testing.assert_array_equal(np.asanyarray(four.dataobj), 0.25)
    refused(lambda: save_prediction(out, labels, case), out, "overwrite=True")
    refused(lambda: save_prediction(path, labels, case, overwrite=True), path, "source file")
    refused(lambda: save_prediction(tmp_path / "p.npy", labels, case), ".nii or .nii.gz")
    refused(lambda: save_prediction(tmp_path / "q.nii", labels[1:], case), "(13, 12, 10)", SHAPE)
    nan = np.full(labels.shape, np.nan)
    refused(lambda: save_prediction(tmp_path / "q.nii", nan, case), "q.nii", "NaN")
    assert not list(tmp_path.glob("*q.nii*"))  # no traces of what failed


# ---------------------------------------------------------------------------------------- real data


@pytest.fixture
def sample(shared):
    return find_cases(
        shared / "brats_sample",
        layout="folder",
        modalities={"flair": "Flair*.nii.gz", "t1c": "T1c*.nii.gz"},
        label="OTMultiClass*.nii.gz",
        labels="brats2013",
        mask="brainmask*.nii.gz",
    )


def test_real_case(sample, tmp_path):
    """BraTS 2013, patient 5: what the labels mean shows in the images; written back it fits."""
    (source,) = sample
    assert (source.id, source.patient) == ("brats_2013_pat0005_1", "brats_2013_pat0005")
    case = loaded(sample)
    assert case.image.shape == (240, 240, 155, 2)
    assert (case.geometry.orientation, case.spacing) == ("LPS", (1.0, 1.0, 1.0))
    assert case.target.sum(axis=(0, 1, 2)).tolist() == [80682, 45266, 18354]
    brain = read_volume(source.mask).data > 0.5
    assert brain.sum() == 1523743
    assert not case.image[~brain].any()
    for channel in np.moveaxis(case.image[brain], -1, 0):
        assert abs(channel.mean()) < 1e-4
        assert abs(channel.std() - 1) < 1e-4
    truth = nibabel.load(source.label)
    labels = case.geometry.to_ras(np.asanyarray(truth.dataobj))
    flair, t1c = (
        [x[labels == v].mean() for v in range(1, 5)] for x in np.moveaxis(case.image, -1, 0)
    )
    assert np.argmin(t1c) == 0  # necrosis is dark
    assert np.argmax(t1c) == 3  # enhancing tumour is bright after contrast
    assert min(flair[1], flair[2]) > 1.4  # oedema and infiltration are bright in FLAIR
    out = save_prediction(tmp_path / "p.nii.gz", to_labels(case.target, "brats2013"), case)
    written, image = nibabel.load(out), nibabel.load(source.images[0][1])
    stored = np.asanyarray(truth.dataobj)
    np.testing.assert_array_equal(
        np.asanyarray(written.dataobj), np.where(stored == 3, 1, stored).astype(np.uint8)
    )
    np.testing.assert_array_equal(written.affine, image.affine)
    for field in ("qform_code", "sform_code", "pixdim"):
        np.testing.assert_array_equal(written.header[field], image.header[field])
