"""Which GPU a program is made for, and which one is at hand. Pallas is not imported here."""

import re
from typing import Any

import jax

#: What an abstract device is called -> its compute capability; the first match counts.
_CAPABILITIES = (
    (r"\bA100\b|\bA30\b", (8, 0)),
    (r"\bA10\b|\bA40\b|\bRTX A\d|\bRTX 30\d\d\b", (8, 6)),
    (r"\bL4\b|\bL40S?\b|\bRTX 40\d\d\b|\bRTX \d+ Ada\b", (8, 9)),
    (r"\bH100\b|\bH200\b|\bGH200\b", (9, 0)),
    (r"\bG?B200\b", (10, 0)),
    (r"\bG?B300\b", (10, 3)),
    (r"\bThor\b", (11, 0)),
    (r"\bRTX PRO \d|\bRTX 50\d\d\b", (12, 0)),
    (r"\bGB10\b", (12, 1)),
)

#: The oldest architecture with bfloat16 tensor cores.
OLDEST = (8, 0)


def compute_capability() -> tuple[int, int] | None:
    """Architecture of the NVIDIA GPU that the current trace is for; None for other devices.

    That is the device of the current abstract mesh if there is one, else JAX's default device.

    Example:
        >>> compute_capability() is None or compute_capability() >= (5, 0)
        True
    """
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is None:
        return _of_device(_default_device())
    if abstract.platform not in ("gpu", "cuda"):
        return None
    for pattern, capability in _CAPABILITIES:
        if re.search(pattern, abstract.device_kind):
            return capability
    local = _default_device()
    return _of_device(local) if local.device_kind == abstract.device_kind else None


def supported() -> bool:
    """True if the trace is for a GPU that the Pallas kernels are written for (Ampere or later)."""
    capability = compute_capability()
    return capability is not None and capability >= OLDEST


def local_capability() -> tuple[int, int] | None:
    """Architecture of the GPU that programs run on here, whatever a trace is for.

    Example:
        >>> local_capability() is None or local_capability() >= (5, 0)
        True
    """
    return _of_device(_default_device())


def cores() -> int:
    """Multiprocessors of the GPU that the trace is for; of an H200 where it does not say.

    Example:
        >>> cores() > 0
        True
    """
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    device = abstract or _default_device()
    stated = getattr(device, "num_cores" if abstract else "core_count", None)
    return stated if stated and compute_capability() else 132


def device_name() -> str:
    """What :func:`compute_capability` is about, to be shown.

    Example:
        >>> isinstance(device_name(), str)
        True
    """
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    return (abstract or _default_device()).device_kind


def _default_device() -> Any:
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(default, str):
        return jax.local_devices(backend=default)[0]
    return default if default is not None else jax.local_devices()[0]


def _of_device(device: Any) -> tuple[int, int] | None:
    """(9, 0) for a device whose compute_capability is "9.0"; AMD's are like "gfx942"."""
    capability = str(getattr(device, "compute_capability", ""))
    if device.platform not in ("gpu", "cuda") or not re.fullmatch(r"\d+\.\d+", capability):
        return None
    major, minor = capability.split(".")
    return int(major), int(minor)


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``: lengths of blocks must be such.

    Example:
        >>> [next_power_of_two(n) for n in (1, 3, 16, 17)]
        [1, 4, 16, 32]
    """
    return 1 << (max(n, 1) - 1).bit_length()
