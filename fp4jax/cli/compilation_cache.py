"""What one process compiled serves the next: JAX's persistent cache, a folder per processor."""

import contextlib
import hashlib
import os
import stat
from pathlib import Path

import jax

#: 0 turns the cache off.
VARIABLE = "FP4JAX_COMPILATION_CACHE"
LIMIT = 2 * 2**30


def use(folder: Path) -> None:
    """Lets JAX keep compiled programs in a folder, of which the newest 2 GB stay.

    JAX itself says which ones: those that took a second or more. A folder that it was given, as by
    JAX_COMPILATION_CACHE_DIR, is left to it; one that cannot be written, or belongs to somebody
    else, whose programs would be run, is not used. JAX's own limit,
    jax_compilation_cache_max_size, takes a lock and looks at every file for each program.
    """
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore
    if given is not None or os.environ.get(VARIABLE) == "0":
        return
    folder = folder / _processor()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK) and _own(folder):
            trim(folder, LIMIT)
            jax.config.update("jax_compilation_cache_dir", str(folder))


def trim(folder: Path, limit: int) -> None:
    """Removes the oldest files until the rest has at most ``limit`` bytes."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            status = path.stat()
            if stat.S_ISREG(status.st_mode):  # XLA keeps folders of its own there
                files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def _own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _processor() -> str:
    """A name for what the processor can do: XLA compiles for it, which JAX's keys do not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:12]
