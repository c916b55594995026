"""use_large_pages: a command starts itself anew, once, and only where that has an effect."""

import os
import sys

import pytest

from fp4jax import memory
from fp4jax.cli import program
from fp4jax.memory import VARIABLE, use_large_pages
from tests.test_package import run_python

HUGE = "glibc.malloc.hugetlb=1"


@pytest.fixture
def started(monkeypatch):
    """What was started in place of this process: with which arguments and tunables."""
    found = []
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(memory, "_on_request", lambda: True)
    monkeypatch.setattr(
        memory.os, "execv", lambda path, argv: found.append((path, argv, _tunables()))
    )
    return found


def _tunables() -> str | None:
    return os.environ.get("GLIBC_TUNABLES")


def test_starts_the_same_command_once(started, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "fp4jax", "train"])
    use_large_pages()
    use_large_pages()
    argv = [sys.executable, "-X", "dev", "-m", "fp4jax", "train"]
    assert started == [(sys.executable, argv, HUGE)]


def test_keeps_other_tunables(started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    use_large_pages()
    assert [tunables for *_, tunables in started] == [f"glibc.malloc.arena_max=2:{HUGE}"]


@pytest.mark.parametrize(
    ("name", "value"), [(VARIABLE, "0"), ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")]
)
def test_leaves_what_was_decided(started, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    use_large_pages()
    assert not started


@pytest.mark.parametrize(
    ("libc", "enabled", "expected"),
    [
        (("glibc", "2.35"), "always [madvise] never", True),
        (("glibc", "2.41"), "[always] madvise never", False),
        (("glibc", "2.34"), "always [madvise] never", False),
        (("", ""), "always [madvise] never", False),
        (("glibc", "2.36"), None, False),
    ],
    ids=["on request", "always", "old glibc", "no glibc", "not Linux"],
)
def test_where_it_has_an_effect(monkeypatch, tmp_path, libc, enabled, expected):
    file = tmp_path / "enabled"
    if enabled is not None:
        file.write_text(enabled)
    monkeypatch.setattr(memory, "_ENABLED", file)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: libc)
    assert memory._on_request() == expected


@pytest.mark.parametrize(
    ("argv", "starts"), [(["train"], True), (["train_volumes"], True), (["report"], False)]
)
def test_commands_that_train_start_anew(monkeypatch, argv, starts):
    done = []
    monkeypatch.setattr(program, "use_large_pages", lambda: done.append("started"))
    monkeypatch.setattr(program, "run", lambda name, argv: done.append(name))
    monkeypatch.setattr(sys, "argv", ["fp4jax", *argv])
    program.main()
    assert done == ["started"] * starts + argv


def test_a_process_that_starts_anew():
    """A real one: the second start prints, with the first one's process number and arguments."""
    code = """
import os
import sys
from fp4jax import memory

memory._on_request = lambda: True
first = os.environ.setdefault("FIRST", str(os.getpid()))
memory.use_large_pages()
print(first == str(os.getpid()), os.environ["GLIBC_TUNABLES"], sys.orig_argv[1:2])
"""
    variables = {**os.environ, VARIABLE: "1"}
    variables.pop("GLIBC_TUNABLES", None)
    assert run_python(code, env=variables).strip() == f"True {HUGE} ['-c']"
