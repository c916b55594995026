"""nnU-Net's raw data: both versions of dataset.json, labels and regions, what is refused."""

import json
import logging
import unicodedata

import numpy as np
import pytest

from fp4jax import data
from fp4jax.data import nifti
from tests.brains import label, ras, volume, write
from tests.data.reading import find_and_load

pytest.importorskip("nibabel")


def nnunet(root, ids, *, version=2, end=".nii.gz", names=("FLAIR", "T1"), labels=None, **changes):
    for i, case in enumerate(ids):
        for channel in range(len(names)):
            write(root / "imagesTr" / f"{case}_{channel:04d}{end}", volume((i, channel)))
        write(root / "labelsTr" / f"{case}{end}", label((2, 1, 3)))
    named = {str(i): name for i, name in enumerate(names)}
    if version == 2:
        labels = labels or {"background": 0, "edema": 2, "non-enhancing": 1, "enhancing": 3}
        record = {"channel_names": named, "file_ending": end, "numTraining": len(ids)}
    else:
        labels = labels or {"0": "background", "1": "NCR", "2": "edema", "3": "enhancing"}
        training = [
            {"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ids
        ]
        record = {"modality": named, "training": training, "test": []}
    root.joinpath("dataset.json").write_text(json.dumps({**record, "labels": labels, **changes}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("end", [".nii.gz", ".nii"])
def test_nnunet(tmp_path, version, end):
    root = tmp_path / "nnUNet_raw" / "Dataset001_Brain"
    nnunet(root, ("BRATS_001", "BRATS_002"), version=version, end=end)
    write(root / "imagesTs" / f"BRATS_009_0000{end}", volume(1))
    write(root / "imagesTs" / f"BRATS_009_0001{end}", volume(2))
    (root / "imagesTr" / "._BRATS_001_0000.nii.gz").write_bytes(b"x")
    for where in (root, root.parent):
        cases, one = find_and_load(where)
        assert [case.id for case in nifti.find_cases(where)][-1] == "BRATS_009"
        assert [case.layout for case in cases] == ["nnunet"] * 2
        assert cases[0].modalities == ("flair", "t1")
        np.testing.assert_array_equal(one.reference.data, ras(volume((0, 0))))
        assert one.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    assert find_and_load(root, modalities=("t1",))[0][0].modalities == ("t1",)
    slices = data.load("brats", root, image_size=8, cache=False)
    assert slices.channels == ("flair", "t1")
    (root / "imagesTr" / f"BRATS_002_0001{end}").unlink()
    with pytest.raises(ValueError, match=rf"BRATS_002: modality t1 is missing, .*_0001{end}"):
        nifti.find_cases(root)


@pytest.mark.parametrize(
    ("labels", "regions"),
    [
        ({"whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": [3]}, nifti.REGIONS),
        ({"0": "background", "1": "a", "2": "b", "3": "c"}, ("foreground", "a", "b", "c")),
        ({"background": 0, "a": 1, "b": [2, 3], "ignore": 4}, ("a", "b")),
    ],
)
def test_labels_of_nnunet(tmp_path, labels, regions):
    nnunet(tmp_path, ("a", "b"), labels=labels)
    cases, one = find_and_load(tmp_path, regions=regions)
    assert tuple(cases[0].table) == regions
    assert one.target[..., 0].sum() in (120, 36)


def test_other_forms_of_nnunet(tmp_path, caplog):
    # the list "dataset", no number where there is one channel, a case that nobody labelled
    nnunet(tmp_path / "a", ("x",), labels={"background": 0, "l": [1, 2, 3]})
    record = json.loads((tmp_path / "a/dataset.json").read_text())
    images = ["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz"]
    record["dataset"] = {"renamed": {"images": images, "label": "labelsTr/x.nii.gz"}}
    (tmp_path / "a/dataset.json").write_text(json.dumps(record), encoding="utf-8-sig")
    assert [case.id for case in find_and_load(tmp_path / "a", regions=("l",))[0]] == ["renamed"]
    write(tmp_path / "b/imagesTr/x.nii.gz", volume(1))
    write(tmp_path / "b/imagesTr/y.nii.gz", volume(2))
    write(tmp_path / "b/labelsTr/x.nii.gz", label((1,)))
    record = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "l": 1}, "numTraining": 5}
    (tmp_path / "b/dataset.json").write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        cases = nifti.find_cases(tmp_path / "b")
    assert [case.label is None for case in cases] == [False, True]
    assert "numTraining is 5, and there are 2" in caplog.text
    # composed and decomposed letters
    nnunet(tmp_path / "c", ("Mu\u0308ller",))
    path = tmp_path / "c/labelsTr/Mu\u0308ller.nii.gz"
    path.rename(path.with_name(unicodedata.normalize("NFC", path.name)))
    assert [case.id for case in find_and_load(tmp_path / "c")[0]] == ["M\u00fcller"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: text.replace("}", ",}", 1), "cannot be read as JSON"),
        (lambda text: text.replace('".nii.gz"', '".png"'), "files end in '.png'"),
        (lambda text: text.replace('"labels"', '"classes"'), "labels are needed"),
        (lambda text: text.replace('"FLAIR"', '"T1"'), "name each once|t10|modality t10"),
    ],
)
def test_nnunet_refuses(tmp_path, change, text):
    nnunet(tmp_path, ("a",))
    file = tmp_path / "dataset.json"
    file.write_text(change(file.read_text()))
    if "t10" in text:  # two channels of one name are numbered
        assert nifti.find_cases(tmp_path)[0].modalities == ("t10", "t11")
        return
    with pytest.raises(ValueError, match=text):
        nifti.find_cases(tmp_path)
