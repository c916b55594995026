"""use_large_pages: this process again, with the memory of its computations in pages of 2 MB."""

import os
import platform
import sys
from pathlib import Path

#: 0 leaves the process as it is.
VARIABLE = "FP4JAX_LARGE_PAGES"
_TUNABLES, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
# Linux says here who gets large pages; the choice in brackets holds.
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_large_pages() -> None:
    """Starts this process again, once, so that glibc's allocator asks Linux for large pages.

    XLA:CPU asks for the temporary memory of a program in every call, and frees it afterwards. glibc
    returns blocks of that size to the system, which hands them out again page by page, each
    cleared: of 4 KB, these are 14,000 page faults and a third of the CPU time of a step of a small
    transformer; of 2 MB, two hundred. glibc reads its settings (``GLIBC_TUNABLES``) only when a
    process starts, hence the second start, before anything was done: the same process number, the
    same arguments, and child processes inherit the setting.

    Nothing happens without glibc 2.35, where Linux does not hand out large pages on request (it
    may do so always), where the setting is given, and with ``FP4JAX_LARGE_PAGES=0``.

    Source: GNU C library manual, "Memory Allocation Tunables"; Linux, "Transparent Hugepage
    Support". (Keeping freed memory, by mallopt, was tried: as fast with programs from the cache,
    but up to half as fast where the process compiled them, since its threads then share one heap.)

    Example:
        >>> os.environ["FP4JAX_LARGE_PAGES"] = "0"
        >>> use_large_pages()  # returns, and this process goes on
    """
    if os.environ.get(VARIABLE) == "0" or not _on_request():
        return
    given = os.environ.get(_TUNABLES, "")
    if _SETTING in given:
        return
    os.environ[_TUNABLES] = ":".join(filter(None, (given, f"{_SETTING}=1")))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _on_request() -> bool:
    """Whether large pages are there for those who ask, and glibc can."""
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    try:
        return "[madvise]" in _ENABLED.read_text("ascii")
    except OSError:
        return False
