"""What a run was made with: versions, source, devices, machine, date, command."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from fp4jax.version import NUMERICS, __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """What ``environment.json`` of a run holds; nothing that fails.

    Returns:
        ``fp4jax``, ``numerics`` (of :mod:`fp4jax.version`), ``packages`` {name: version},
        ``python``, ``source`` {revision, dirty} of the git checkout that the package lies in or
        None, ``device`` {platform, kind, count}, ``processor``, ``host``, ``date`` (ISO 8601,
        UTC) and ``command`` (the arguments of this process).

    Example:
        >>> found = environment()
        >>> sorted(found)  # doctest: +NORMALIZE_WHITESPACE
        ['command', 'date', 'device', 'fp4jax', 'host', 'numerics', 'packages', 'processor',
         'python', 'source']
    """
    device = jax.devices()[0]
    return {
        "fp4jax": __version__,
        "numerics": NUMERICS,
        "packages": dict(_packages()),
        "python": platform.python_version(),
        "source": _own_source(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "processor": _own_processor(),
        "host": platform.node(),
        "date": now(),
        "command": list(sys.argv),
    }


# What this process runs does not change while it runs: looked at once, for all of its runs.
@functools.cache
def _own_source() -> dict[str, Any] | None:
    return source(Path(__file__).parents[2])


@functools.cache
def _own_processor() -> str:
    return processor()


@functools.cache
def _packages() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, _version(name)) for name in _PACKAGES)


def now() -> str:
    """The time, ISO 8601 in UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def source(tree: Path) -> dict[str, Any] | None:
    """Revision of a git checkout and whether tracked files differ from it; None without git."""
    # A package that is installed inside of someone's checkout is no part of it.
    if not (tree / ".git").exists():
        return None
    revision = _git(tree, "rev-parse", "HEAD")
    if revision is None:
        return None
    changes = _git(tree, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def processor() -> str:
    """Name of the processor's model, such as ``AMD EPYC 7763 64-Core Processor``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(tree: Path, *arguments: str) -> str | None:
    """What git prints; None if it is not there, fails, or does not end."""
    command = ["git", "-C", os.fspath(tree), *arguments]
    # Without locks: others may be using git in that tree.
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=10, env=variables, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
