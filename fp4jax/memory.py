"""keep_pages: memory that a step frees stays with the process, for the next step."""

import ctypes
import os
import platform

#: 0 leaves the allocator as it is.
VARIABLE = "FP4JAX_KEEP_PAGES"
# Numbers of glibc's mallopt (malloc.h), and what its users may have set already.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_SET_BY_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def keep_pages() -> bool:
    """Tells glibc's allocator to give no memory back to the system; for CPUs.

    XLA:CPU asks for the temporary memory of a program in every call and frees it afterwards. By
    default glibc returns blocks of that size to the system, which hands them out again page by
    page, each cleared: 14,000 page faults and a third of the CPU time of a step of a small
    transformer. Freed memory stays in the process instead, so that its size is that of its largest
    moment. The commands do this when they start.

    Returns:
        Whether it was done: not without glibc, with ``FP4JAX_KEEP_PAGES=0``, or where one of
        glibc's own variables (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_MAX_``,
        ``MALLOC_MMAP_THRESHOLD_``) or tunables of the same names is set.

    Source: mallopt(3): M_TRIM_THRESHOLD = -1 disables trimming, M_MMAP_MAX = 0 takes large blocks
    from the heap, too.

    Example:
        >>> isinstance(keep_pages(), bool)
        True
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    given = any(name in os.environ for name in _SET_BY_USERS) or any(
        f"glibc.malloc.{name}" in tunables
        for name in ("trim_threshold", "mmap_max", "mmap_threshold")
    )
    if given or os.environ.get(VARIABLE) == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, -1) and mallopt(_MMAP_MAX, 0))
