"""keep_pages: what a process frees it keeps, unless somebody says otherwise."""

import platform

import pytest

from fp4jax import memory
from tests.test_package import run_python

#: Bytes allocated and freed ten times by a process of its own: the page faults of the last time.
FAULTS = """
import resource
import numpy as np
from fp4jax.memory import keep_pages

kept = keep_pages()
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(kept), faults)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@glibc
@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({}, True),
        ({"FP4JAX_KEEP_PAGES": "0"}, False),
        ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}, False),
    ],
    ids=["by default", "turned off", "set by a variable", "set by a tunable"],
)
def test_freed_memory_stays(variables, kept, monkeypatch):
    for name in ("FP4JAX_KEEP_PAGES", "GLIBC_TUNABLES", *memory._SET_BY_USERS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done, faults = map(int, run_python(FAULTS).split())
    assert bool(done) == kept
    # 64 MB are 16,384 pages of 4 KB, or 32 of 2 MB.
    assert (faults < 10) == kept


def test_nothing_without_glibc(monkeypatch):
    monkeypatch.delenv("FP4JAX_KEEP_PAGES", raising=False)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_pages()
