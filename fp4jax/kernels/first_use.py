"""The self-check of every kernel: tried on the GPU at hand before its first use.

No kernel is trusted because it compiled. Before one is first put into a program it is run on a
small input, outside of any trace, and compared with its reference; the verdict holds for the
process. Kernels form families, which stand or fall together.
"""

import logging
import threading
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

from fp4jax.kernels import backend

_log = logging.getLogger("fp4jax.kernels")
_lock = threading.RLock()

#: (family, case) of the kernels that passed in this process; and why families failed.
_passed: set[tuple[str, Hashable]] = set()
_failed: dict[str, str] = {}


def objection(
    family: str,
    case: Hashable,
    check: Callable[[], str | None],
    *,
    instead: str,
    caution: str | None = None,
) -> str | None:
    """Why a kernel is not to be used, in words; None if it passed its check.

    A failure is warned of once (RuntimeWarning) and rules the whole family out.

    Args:
        family: name of the kernels, as warnings have it.
        case: which of them; each is tried once.
        check: runs the kernel, and returns what differs from the reference, in words, or None.
        instead: what happens without the kernel, a sentence.
        caution: what to warn of, once, if the kernel passes.

    Example:
        >>> objection("the adder", "float32", lambda: None, instead="Sums are computed by hand.")
        >>> objection("the adder", "float32", lambda: "not tried again", instead="")
    """
    with _lock:
        if family in _failed:
            return _failed[family]
        if (family, case) in _passed:
            return None
        found = _run(check)
        device = backend.device_name()
        if found is not None:
            _failed[family] = f"{family} failed its self-check on {device}: {found}"
            warnings.warn(f"{_failed[family]}. {instead}", RuntimeWarning, stacklevel=3)
            return _failed[family]
        _passed.add((family, case))
        _log.info("%s passed its self-check on %s: %s", family, device, case)
        if caution is not None:
            warnings.warn(caution, RuntimeWarning, stacklevel=3)
        return None


def not_at_hand(capability: tuple[int, int] | None) -> str | None:
    """Why kernels for that architecture cannot be tried here; None if they can.

    Example:
        >>> not_at_hand((99, 0))
        'a kernel has to prove itself first, and there is no GPU of compute capability 99.0 here'
    """
    if capability is not None and backend.local_capability() == capability:
        return None
    wanted = ".".join(map(str, capability)) if capability else "8.0 or more"
    return (
        f"a kernel has to prove itself first, and there is no GPU of compute capability {wanted} "
        "here"
    )


def forget(family: str) -> None:
    """Forgets the verdicts on a family, whose kernels are then tried again.

    Example:
        >>> forget("the adder")
    """
    with _lock:
        _failed.pop(family, None)
        _passed.difference_update({entry for entry in _passed if entry[0] == family})


def _run(check: Callable[[], str | None]) -> str | None:
    try:
        # Usually asked for while a function is traced; in a thread of its own nothing is.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(check).result()
    except Exception as error:  # whatever the compiler, the driver or the device has against it
        return f"it cannot run ({type(error).__name__}: {str(error)[:300]})"
