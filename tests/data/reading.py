"""Cases as tests read them: the first one found, its normalized image, and what is refused."""

import numpy as np
import pytest

from fp4jax.data import nifti


def loaded(cases, modalities=None, **options):
    """The first case."""
    return nifti.VolumeSet(cases, modalities, cache=False, **options).load(0)


def find_and_load(root, regions=nifti.REGIONS, **options):
    """Cases of a folder that have a label map, and the first of them."""
    cases = nifti.find_cases(root, **options)
    cases = [case for case in cases if case.label is not None]
    return cases, loaded(cases, regions=regions)


def z_scores(data):
    """Of the voxels that are not zero."""
    inside = data[data != 0].astype(np.float64)
    return np.where(data != 0, (data - inside.mean()) / inside.std(), 0)


def refused(call, *texts):
    """Asserts that the call is a ValueError with these texts, of few lines."""
    with pytest.raises(ValueError, match=r".") as error:
        call()
    for text in texts:
        assert str(text) in str(error.value)
    assert len(str(error.value).splitlines()) <= 14
