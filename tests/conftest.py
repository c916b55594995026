"""Settings and fixtures of all tests: the strictest JAX, eight CPU devices, golden files."""

import collections
import contextlib
import gc
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

import tests.golden
from fp4jax.cli import compilation_cache

# Commands that tests run would start anew, for large pages.
os.environ["FP4JAX_LARGE_PAGES"] = "0"

# Before any array is made. A library is easier to use the fewer implicit promotions it needs.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What one run of the tests compiled serves the next, and both processes of one.
compilation_cache.use(Path(sys.prefix) / "jax-cache")
# Also the thousands of single operations of tests that are not compiled as a whole.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# A job that a shell starts in the background ignores Ctrl-C, which tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run; compiling makes the first of them slow, so no deadline.
hypothesis.settings.register_profile("fp4jax", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fp4jax")


#: Files that take longest, with a cold cache of programs. With pytest-xdist's loadscope a process
#: that came to one of them last would end alone.
FIRST = (
    "test_contract.py",
    "convolution/test_quantized.py",
    "convolution/test_products.py",
    "nnx/test_packing.py",
    "nnx/test_keys.py",
    "kernels/test_fused_several_devices.py",
    "kernels/test_fused_quantizer.py",
    "ops/test_dot_general.py",
    "kernels/test_scaled_matmul.py",
    "convolution/test_options.py",
    "kernels/test_fused_compiled.py",
    "analysis/test_diagnosis_run.py",
    "nnx/test_apply_recipe.py",
    "ops/test_modes.py",
    "models/test_models_golden.py",
    "cli/test_verbs.py",
    "train/test_volumes.py",
    "nnx/test_training_nnx.py",
    "train/test_train_resume.py",
    "train/test_train_lanes.py",
    "train/test_methods.py",
    "study/test_study.py",
)


#: Tests that are slow, by their names; those marked in the code come to them.
SLOW = Path(__file__).with_name("slow_tests.txt")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = {line for line in SLOW.read_text().splitlines() if not line.startswith("#")}
    for item in items:
        if item.nodeid in slow:
            item.add_marker("slow")
    if not any("::" in argument for argument in config.args):
        files = {item.nodeid.partition("::")[0] for item in items}
        listed = {name for name in slow if name.partition("::")[0] in files}
        if gone := listed - {item.nodeid for item in items}:
            raise pytest.UsageError(f"{SLOW.name} lists tests that do not exist: {sorted(gone)}")

    def place(item: pytest.Item) -> int:
        ends = (item.path.as_posix().endswith(name) for name in FIRST)
        return next((i for i, found in enumerate(ends) if found), len(FIRST))

    places = {item.path: place(item) for item in items}
    items.sort(key=lambda item: places[item.path])


def pytest_collection_finish() -> None:
    """Thousands of tests, and modules, are not looked through by each garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_report_header() -> str:
    folder = os.environ.get("FP4JAX_SHARED")
    return f"golden vectors: {folder or 'a subset, in tests/golden; FP4JAX_SHARED is not set'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per folder: how many of its tests passed, failed and were skipped."""
    if hasattr(terminalreporter.config, "workerinput"):  # a process of pytest-xdist's
        return
    outcomes = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome, counted in outcomes.items():
        for report in terminalreporter.stats.get(outcome, []):
            root, *inner = report.nodeid.partition("::")[0].split("/")
            # The package's own are the examples in docstrings.
            folder = "/".join([root, *inner[:-1][:1]]) if root == "tests" else root
            counts[folder][counted] += 1
    if counts:
        terminalreporter.section("tests per folder")
    for folder, count in sorted(counts.items()):
        shown = ", ".join(f"{count[name]:5} {name}" for name in ("passed", "failed", "skipped"))
        terminalreporter.write_line(f"{folder:20}{shown}")


#: Memory of a process beyond which it forgets its programs, in bytes.
ENOUGH = 3 * 2**30


@pytest.fixture(autouse=True, scope="module")
def forget_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small programs of one file serve the next; with large ones the memory would run out.

    What was traced while something was replaced is forgotten in any case.
    """
    yield
    tests = [item for item in request.session.items if item.path == request.path]
    replaced = any("monkeypatch" in getattr(item, "fixturenames", ()) for item in tests)
    if replaced or memory() > ENOUGH:
        jax.clear_caches()


#: Where programs are compiled as users' are, because the bits of the quantizers are tested.
#: Elsewhere, by default, without most optimizations: in 0.6 of the time. The slow tests, and all
#: that run together with them, have the optimizations everywhere.
OPTIMIZED = {
    "test_golden.py",
    "test_quantize.py",
    "test_fake_quantize.py",
    "test_special_values.py",
}


@pytest.fixture(autouse=True, scope="module")
def optimizations(request: pytest.FixtureRequest) -> None:
    by_default = request.config.getoption("markexpr") == "not slow"
    fewest = by_default and not OPTIMIZED.intersection(request.path.parts)
    if fewest != jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", fewest)


def memory() -> float:
    """Bytes that this process holds; infinite where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.inf
    return pages * os.sysconf("SC_PAGE_SIZE")


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
