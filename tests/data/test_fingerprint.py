"""Fingerprints: exact statistics, and the file that differs is named."""

import dataclasses
import json

import numpy as np
import pytest

from fp4jax.data import Cohort, differences, fingerprint, verify


@pytest.fixture
def cohort():
    rng = np.random.default_rng(0)
    return Cohort(
        images=rng.integers(0, 256, (5, 8, 8, 2), np.uint8),
        masks=(rng.random((5, 8, 8)) < np.array([0, 0, 0.5, 0.5, 0])[:, None, None]).astype(
            np.uint8
        ),
        patient_ids=np.array(["a", "a", "a", "b", "b"]),
        slice_index=np.array([1, 2, 10, 1, 2], np.int32),
        name="made",
        channels=("t1", "flair"),
    )


def test_statistics(cohort):
    found = fingerprint(cohort)
    assert found == json.loads(json.dumps(found))
    assert (found["patients"], found["slices"], found["positive_slices"]) == (2, 5, 2)
    assert found["shape"] == [8, 8, 2]
    assert found["positive_slice_share"] == 0.4
    assert found["positive_pixel_share"] == cohort.masks.mean()
    assert found["slices_per_patient"] == [2, 2.25, 2.5, 2.75, 3]
    for c, channel in enumerate(cohort.channels):
        values = cohort.images[..., c]
        statistics = found["intensity"][channel]
        assert statistics["mean"] == pytest.approx(values.mean())
        assert statistics["sd"] == pytest.approx(values.std())
        for p, level in statistics["percentiles"].items():
            assert level == np.percentile(values, float(p), method="inverted_cdf")


def test_digest_sees_everything(cohort):
    digests = {fingerprint(cohort)["sha256"]}
    image, mask = cohort.images.copy(), cohort.masks.copy()
    image[4, 7, 7, 1] ^= 1
    mask[0, 0, 0] ^= 1
    for changes in (
        {"images": image},
        {"masks": mask},
        {"patient_ids": np.array(["a", "a", "a", "b", "b "])},
        {"slice_index": np.array([1, 2, 10, 1, 3], np.int32)},
        {"channels": ("flair", "t1")},
    ):
        digests.add(fingerprint(dataclasses.replace(cohort, **changes))["sha256"])
    assert len(digests) == 6


def test_digest_does_not_depend_on_storage(cohort, tmp_path):
    opened = Cohort.open(cohort.save(tmp_path / "cohort"))
    assert fingerprint(opened) == fingerprint(cohort)
    reversed_channels = dataclasses.replace(cohort, images=cohort.images[..., ::-1].copy())
    view = dataclasses.replace(cohort, images=reversed_channels.images[..., ::-1])
    assert fingerprint(view) == fingerprint(cohort)


def test_verify(cohort):
    expected = fingerprint(cohort)
    verify(cohort, expected)
    verify(cohort, {"patients": 2, "slices": 5})
    with pytest.raises(ValueError, match="Unknown keys"):
        verify(cohort, {"patient": 2})
    images = cohort.images.copy()
    images[2] += 1
    changed = dataclasses.replace(cohort, images=images)
    with pytest.raises(ValueError, match=r"(?s)a_10: image or mask differs.*sha256.*Unpack"):
        verify(changed, expected)
    lines = differences(cohort.select(["b"]), expected)
    assert lines[0] == "a: the patient is missing"
    assert "slices: 2, expected 5" in lines
    fewer = dataclasses.replace(
        cohort,
        **{f: getattr(cohort, f)[1:] for f in ("images", "masks", "patient_ids")},
        slice_index=cohort.slice_index[1:],
    )
    assert differences(fewer, expected)[0] == "a_1: the slice is missing"
    assert differences(cohort, fingerprint(fewer))[0] == "a_1: this slice is not expected"


def test_empty(cohort):
    found = fingerprint(cohort.select([]))
    assert json.loads(json.dumps(found))["positive_pixel_share"] is None


def test_verify_reads_lgg_files(shared, tmp_path):
    pytest.importorskip("tifffile")
    root = shared / "lgg_sample"
    verify(root, {"patients": 12, "shape": [256, 256, 3]})
    with pytest.raises(ValueError, match="patients: 12, expected 110"):
        verify(root, {"patients": 110})
