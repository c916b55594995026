"""Settings and fixtures of all tests: the strictest JAX, eight CPU devices, golden files."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

import tests.golden

# Before any array is made. A library is easier to use the fewer implicit promotions it needs.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run; compiling makes the first of them slow, so no deadline.
hypothesis.settings.register_profile("fp4jax", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fp4jax")


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Compiled programs of one file are of no use to the next, and take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Calls as users make them: arguments of wrong types reach fp4jax's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For tests that run code of others which needs implicit promotions, such as optax.adam's."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and sample data, $FP4JAX_SHARED."""
    folder = os.environ.get("FP4JAX_SHARED")
    if not folder:
        pytest.skip("FP4JAX_SHARED is not set: no golden vectors and sample data to test with")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"FP4JAX_SHARED must name a folder, got {folder!r}")
    return Path(folder)


@pytest.fixture(scope="session")
def golden(shared: Path) -> Iterator[Callable[[str], np.lib.npyio.NpzFile]]:
    """golden("nvfp4_te_ref_public.npz"): the arrays of that file by key, read when indexed."""
    opened: dict[str, np.lib.npyio.NpzFile] = {}
    with contextlib.ExitStack() as stack:

        def load(name: str) -> np.lib.npyio.NpzFile:
            if name not in opened:
                opened[name] = stack.enter_context(np.load(shared / "golden" / name))
            return opened[name]

        yield load


@pytest.fixture(scope="session")
def vectors(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """vectors("nvfp4_te_ref_public.npz"): as ``golden``, or tests/golden's subset without it."""
    if os.environ.get("FP4JAX_SHARED"):
        return request.getfixturevalue("golden")
    return tests.golden.load
