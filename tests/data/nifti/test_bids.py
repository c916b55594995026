"""BIDS: sessions, masks among derivatives, tables of labels."""

import shutil

import numpy as np
import pytest

from fp4jax.data import nifti
from fp4jax.train import Source, Volumes
from tests.brains import label, ras, volume, write
from tests.data.reading import find_and_load

pytest.importorskip("nibabel")


def bids(root, sessions, *, where="derivatives/manual", suffix="label-lesion_mask", mask=(1,)):
    for i, session in enumerate(sessions):
        name = "_".join(session)
        folder = "/".join((*session, "anat"))
        for m, image in enumerate(("FLAIR", "T1w", "ce-gd_T1w")):
            write(root / folder / f"{name}_{image}.nii.gz", volume((i, m)))
            (root / folder / f"{name}_{image}.json").write_text("{}")
        write(root / where / folder / f"{name}_{suffix}.nii.gz", label(mask))


@pytest.mark.parametrize("where", ["derivatives/manual", ".", "derivatives"])
def test_bids(tmp_path, where):
    sessions = [(f"sub-{i // 2}", f"ses-{i % 2}") for i in range(4)]
    bids(tmp_path, sessions, where=where)
    write(tmp_path / "sub-0/ses-0/func/sub-0_ses-0_task-rest_bold.nii.gz", volume(1))
    write(tmp_path / "derivatives/x/sub-0/anat/sub-0_desc-brain_mask.nii.gz", label((1,)))
    write(tmp_path / "derivatives/x/sub-0/anat/sub-0_space-MNI_T1w.nii.gz", volume(3))
    cases, one = find_and_load(tmp_path, regions=("lesion",))
    assert [case.id for case in cases] == ["_".join(session) for session in sessions]
    assert cases[0].modalities == ("flair", "t1", "t1c")
    assert [case.patient for case in cases] == ["sub-0", "sub-0", "sub-1", "sub-1"]
    np.testing.assert_array_equal(one.reference.data, ras(volume((0, 0))))
    assert one.target.sum() == 120


def test_bids_labels(tmp_path):
    bids(tmp_path, [("sub-1",), ("sub-2",)], suffix="dseg", mask=(2, 1, 3))
    with pytest.raises(ValueError, match=r"explained nowhere .*--labels"):
        nifti.find_cases(tmp_path)
    one = find_and_load(tmp_path, labels="brats2023")[1]
    assert one.target.sum(axis=(0, 1, 2)).tolist() == [120, 48, 12]
    table = "index\tname\n0\tbackground\n1\tcore\n2\toedema\n3\tenhancing\n"
    (tmp_path / "derivatives/manual/dseg.tsv").write_text(table)
    assert set(find_and_load(tmp_path, ("core", "oedema"))[0][0].table) >= {
        "core",
        "oedema",
        "foreground",
    }
    shutil.copy(
        tmp_path / "sub-1/anat/sub-1_FLAIR.nii.gz", tmp_path / "sub-1/anat/sub-1_run-2_FLAIR.nii.gz"
    )
    (tmp_path / "sub-2/anat/sub-2_T1w.nii.gz").unlink()
    with pytest.raises(ValueError, match="2 problems") as error:
        nifti.find_cases(tmp_path)
    assert "modality flair is there 2 times" in str(error.value)
    assert "sub-2: modality t1 is missing" in str(error.value)
    # what the message advises
    (tmp_path / "sub-1/anat/sub-1_run-2_FLAIR.nii.gz").unlink()
    assert len(nifti.find_cases(tmp_path, modalities=("flair", "t1c"))) == 2
    patterns = {"flair": "sub-{id}/anat/sub-{id}_FLAIR.nii.gz"}
    truth = "derivatives/manual/sub-{id}/anat/sub-{id}_dseg.nii*"
    task = Volumes(patterns=patterns, label=truth, labels="whole=1,2,3")
    assert task.open(Source(root=tmp_path)).regions == ("whole",)
