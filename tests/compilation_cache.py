"""What one run of the tests compiled serves the next, and both processes of one."""

import contextlib
import hashlib
from pathlib import Path

import jax

LIMIT = 2 * 2**30


def use(folder: Path) -> None:
    """Lets JAX keep compiled programs in a folder, of which the newest 2 GB stay.

    A folder that JAX was given, as by JAX_COMPILATION_CACHE_DIR, is left to it.

    JAX's own limit, jax_compilation_cache_max_size, takes a lock and looks at every file for each
    program that it writes.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if jax.config.jax_compilation_cache_dir:
        return
    folder = folder / _processor()
    with contextlib.suppress(OSError):  # without write access there is no cache
        folder.mkdir(parents=True, exist_ok=True)
        trim(folder, LIMIT)
        jax.config.update("jax_compilation_cache_dir", str(folder))


def trim(folder: Path, limit: int) -> None:
    """Removes the oldest files until the rest has at most ``limit`` bytes."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def _processor() -> str:
    """A name for what the processor can do: XLA compiles for it, which JAX's keys do not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:12]
