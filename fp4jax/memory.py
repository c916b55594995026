"""keep_pages: memory that a step frees stays with the process, for the next step."""

import ctypes
import os
import platform

#: 0 leaves the allocator as it is.
VARIABLE = "FP4JAX_KEEP_PAGES"
# Parameters of glibc's mallopt with their numbers (malloc.h) and values.
_SETTINGS = {"trim_threshold": (-1, -1), "mmap_max": (-4, 0), "arena_max": (-8, 1)}
# What users may have set already, as variables or as tunables.
_NAMES = (*_SETTINGS, "mmap_threshold")


def keep_pages() -> bool:
    """Tells glibc's allocator to give no memory back to the system; for CPUs.

    XLA:CPU asks for the temporary memory of a program in every call and frees it afterwards. By
    default glibc returns blocks of that size to the system, which hands them out again page by
    page, each cleared: 14,000 page faults and a third of the CPU time of a step of a small
    transformer. Freed memory stays in the process instead, so that its size is that of its largest
    moment. All threads take it from one heap, since that of a single thread holds 64 MB at most.
    Call it before JAX computes, which starts threads. The commands do, when they start.

    Returns:
        Whether it was done: not without glibc, with ``FP4JAX_KEEP_PAGES=0``, or where one of
        glibc's own variables (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_MAX_``,
        ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_ARENA_MAX``) or its tunables of these names is set.

    Source: mallopt(3): M_TRIM_THRESHOLD = -1 disables trimming, M_MMAP_MAX = 0 takes large blocks
    from the heap, too, M_ARENA_MAX = 1 has one heap.

    Example:
        >>> isinstance(keep_pages(), bool)
        True
    """
    tunables, variables = os.environ.get("GLIBC_TUNABLES", ""), " ".join(os.environ)
    given = any(
        f"glibc.malloc.{name}=" in tunables or f"MALLOC_{name.upper()}" in variables
        for name in _NAMES
    )
    if given or os.environ.get(VARIABLE) == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, value) for number, value in _SETTINGS.values())
