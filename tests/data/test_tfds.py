"""The TFDS builder: our splits, the loader's arrays, no TensorFlow."""

import sys

import numpy as np
import pytest

from fp4jax.data import lgg, patient_holdout, patient_kfold

pytest.importorskip("tifffile")
pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def root(shared):
    return shared / "lgg_sample"


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory):
    from fp4jax.data import tfds_lgg

    folder = tmp_path_factory.mktemp("tfds")
    for config in ("holdout", "fold3"):
        tfds_lgg.prepare(root, folder, config)
    return folder


def test_equals_the_loader(root, prepared):
    from fp4jax.data import tfds_lgg

    expected = lgg.load(root)
    for config in ("holdout", "fold3"):
        cohort = tfds_lgg.read(prepared, config)
        for field in ("images", "masks", "patient_ids", "slice_index"):
            np.testing.assert_array_equal(getattr(cohort, field), getattr(expected, field))
        assert (cohort.name, cohort.channels) == (expected.name, expected.channels)
    assert "tensorflow" not in sys.modules


def test_splits_are_ours(root, prepared):
    from fp4jax.data import tfds_lgg

    cohort = lgg.load(root)
    for config, split in (
        ("holdout", patient_holdout(cohort)),
        ("fold3", patient_kfold(cohort)[3]),
    ):
        for part in ("train", "val", "test"):
            assert tfds_lgg.read(prepared, config, part).patients == getattr(split, part)


def test_data_source(prepared):
    import tensorflow_datasets as tfds

    source = tfds.data_source("lgg_kaggle/fold3", data_dir=str(prepared))["train"]
    example = source[0]
    assert example["image"].shape == (256, 256, 3)
    assert example["mask"].max() <= 1


def test_refuses(root, tmp_path):
    from fp4jax.data import tfds_lgg

    with pytest.raises(ValueError, match="'fold5'; holdout, fold0"):
        tfds_lgg.prepare(root, tmp_path, "fold5")
    with pytest.raises(ValueError, match="part is 'validation'"):
        tfds_lgg.read(tmp_path, part="validation")
    with pytest.raises(ValueError, match="call prepare"):
        tfds_lgg.read(tmp_path)
    with pytest.raises(ValueError, match="No LGG data"):
        tfds_lgg.prepare(tmp_path, tmp_path)
