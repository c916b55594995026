"""Predictions are written as the source file is: header, orientation, space."""

import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.data.nifti import Case, find_cases, read_volume, save_prediction, to_labels
from tests.brains import SHAPE, oblique, volume, write
from tests.data.reading import loaded, refused

nibabel = pytest.importorskip("nibabel")


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
