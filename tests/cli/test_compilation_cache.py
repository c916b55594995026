"""The cache of compiled programs: where it lies, when there is none, and that it stays small."""

import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest

from fp4jax.cli import compilation_cache


@pytest.fixture
def no_cache_yet(monkeypatch) -> Iterator[None]:
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def used() -> str | None:
    return jax.config.jax_compilation_cache_dir


@pytest.mark.usefixtures("no_cache_yet")
def test_a_folder_for_this_processor(tmp_path):
    compilation_cache.use(tmp_path / "new" / "xla")
    (folder,) = (tmp_path / "new" / "xla").iterdir()
    assert used() == str(folder)
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("no_cache_yet")
def test_a_folder_that_jax_was_given_is_kept(tmp_path):
    jax.config.update("jax_compilation_cache_dir", "mine")
    compilation_cache.use(tmp_path)
    assert used() == "mine"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_cache_yet")
def test_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("FP4JAX_COMPILATION_CACHE", "0")
    compilation_cache.use(tmp_path)
    assert used() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_cache_yet")
@pytest.mark.parametrize("reason", ["a file", "read-only", "of another user"])
def test_a_folder_that_cannot_be_used_is_no_error(tmp_path, monkeypatch, reason):
    folder = tmp_path
    if reason == "a file":
        folder = tmp_path / "xla"
        folder.write_text("")
    elif reason == "read-only":  # not by its mode, which root need not mind
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
    compilation_cache.use(folder)
    assert used() is None


def test_a_second_start_compiles_nothing(tmp_path):
    """Of a command, in processes of their own."""
    script = (
        "import jax, sys; from fp4jax.cli.command import main\n"
        "main(lambda _: jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))), int, None)"
    )
    environment = {
        **os.environ,
        "FP4JAX_CACHE": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment.pop(compilation_cache.VARIABLE, None)
    written = []
    for _ in range(2):
        command = [sys.executable, "-c", script, "1"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr) == (0, "")
        files = (tmp_path / "xla").rglob("*-cache")
        written.append({path.name: path.stat().st_mtime_ns for path in files})
    assert written[0]
    assert written[0] == written[1]


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / name
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "xla_gpu_per_fusion_autotune_cache_dir").mkdir()
    compilation_cache.trim(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 4
    compilation_cache.trim(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["middle", "new"]
    compilation_cache.trim(tmp_path, 0)
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True]
