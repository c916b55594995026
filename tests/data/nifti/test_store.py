"""Prepared volumes on disk, read by several threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fp4jax.data.nifti import VolumeSet, find_cases
from tests.brains import brats

pytest.importorskip("nibabel")


def test_headers_are_parsed_one_at_a_time(tmp_path, monkeypatch):
    """Python's parser keeps one depth for all threads (python/cpython#106905)."""
    brats(tmp_path / "cases", [f"BraTS20_Training_00{i}" for i in range(1, 5)])
    cases = find_cases(tmp_path / "cases")
    first = VolumeSet(cases, cache=tmp_path / "kept")
    before = [np.array(first.prepared(i).image) for i in range(4)]
    volumes = VolumeSet(cases, cache=tmp_path / "kept")

    inside, seen, load = threading.Lock(), [], np.load

    def alone(*arguments, **options):
        seen.append(inside.acquire(blocking=False))
        try:
            time.sleep(0.01)
            return load(*arguments, **options)
        finally:
            if seen[-1]:
                inside.release()

    monkeypatch.setattr(np, "load", alone)
    with ThreadPoolExecutor(4) as pool:
        after = list(pool.map(volumes.prepared, range(4)))
    assert seen.count(True) == len(seen) >= 4
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other.image)
