"""keep_pages: what a process frees it keeps, unless somebody says otherwise."""

import dataclasses
import os
import platform

import pytest

from fp4jax import memory
from fp4jax.cli import command, process
from tests.test_package import run_python

#: 128 MB taken and freed ten times by a thread: the page faults of the last time.
FAULTS = """
import resource
import threading
import numpy as np
from fp4jax.memory import keep_pages

kept = keep_pages()
def work():
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(128 << 20, np.uint8)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(int(kept), faults)


thread = threading.Thread(target=work)
thread.start()
thread.join()
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@glibc
@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({}, True),
        ({"FP4JAX_KEEP_PAGES": "0"}, False),
        ({"MALLOC_ARENA_MAX": "4"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}, False),
    ],
    ids=["by default", "turned off", "set by a variable", "set by a tunable"],
)
def test_freed_memory_stays(variables, kept, monkeypatch):
    set_ = [name for name in os.environ if name.startswith("MALLOC_")]
    for name in ("FP4JAX_KEEP_PAGES", "GLIBC_TUNABLES", *set_):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done, faults = map(int, run_python(FAULTS).split())
    assert bool(done) == kept
    # 32,768 pages of 4 KB, or 64 of 2 MB.
    assert (faults < 10) == kept


def test_nothing_without_glibc(monkeypatch):
    monkeypatch.delenv("FP4JAX_KEEP_PAGES", raising=False)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_pages()


def test_commands_keep_their_memory(monkeypatch, capsys):
    done = []
    monkeypatch.setattr(process, "keep_pages", lambda: done.append("kept"))
    arguments = dataclasses.make_dataclass("Args", [])
    command.main(lambda _: done.append("ran"), arguments, "A command.", argv=[])
    assert done == ["kept", "ran"]
