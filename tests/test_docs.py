"""The pages of documentation: their Python runs and prints what they say, their commands parse."""

import contextlib
import doctest
import importlib.util
import inspect
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import pytest

from fp4jax.cli.command import Verb
from fp4jax.cli.parsing import parse, read_config, take_flag, take_values
from fp4jax.cli.program import VERBS, load
from tests.registered import registries as registries

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]
WITH_COMMANDS = [*PAGES, ROOT / "README.md", ROOT / "experiments" / "results" / "README.md"]


def blocks(page: Path, *languages: str) -> list[str]:
    """Blocks of code in a page, of languages as its fences name them."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


def printing(page: Path) -> list[tuple[str, str | None]]:
    """Blocks of Python, each with the block of output that follows it at once, or None."""
    pattern = r"^```python\n(.*?)^```(?:\n+```output\n(.*?)^```)?"
    found = re.finditer(pattern, page.read_text(), re.DOTALL | re.MULTILINE)
    return [(match[1], match[2]) for match in found]


def commands(page: Path) -> list[str]:
    """What follows ``fp4jax`` in lines that call it, those continued by a backslash as one."""
    lines = "\n".join(blocks(page, "", "bash", "sh", "console")).replace("\\\n", " ").splitlines()
    found = (re.search(r"^(?:[^#]*[\s/(])?fp4jax ([a-z].*)", line) for line in lines)
    return list(dict.fromkeys(match[1] for match in found if match))


def words_of(line: str) -> list[str]:
    """What a shell gives to the first program of a line; variables are numbers."""
    lexer = shlex.shlex(re.sub(r"\$\w+", "0", line), posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    return list(itertools.takewhile(lambda word: not set(word) <= set("&|;<>"), lexer))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
@pytest.mark.usefixtures("standard_promotion", "registries")
def test_code_of_a_page_runs_from_its_beginning_to_its_end(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code, expected in printing(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, name(page), "exec"), names)
        jax.effects_barrier()
        if expected is not None:
            same = doctest.OutputChecker().check_output
            got = printed.getvalue()
            assert same(expected, got, doctest.ELLIPSIS), f"{code}\nprinted\n{got}"


def parse_only(verb: Verb, argv: list[str]) -> Any:
    """What fp4jax.cli.command.main does before it runs a command."""
    _, argv = take_flag(argv, "--debug")
    _, argv = take_values(argv, "--plugin")
    if verb.config is not None and "--config" in argv:
        _, argv = read_config(argv)
    kind = verb.arguments
    if inspect.isfunction(kind):
        kind = kind(argv, None)
    return parse(kind, argv, verb.description)


@pytest.mark.parametrize("page", [page for page in WITH_COMMANDS if commands(page)], ids=name)
def test_commands_of_a_page_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        verb, *words = words_of(line)
        assert verb in VERBS, line
        config = words.index("--config") + 1 if "--config" in words else None
        if config is not None:
            Path(words[config]).parent.mkdir(parents=True, exist_ok=True)
            Path(words[config]).touch()
        parse_only(load(verb), words)


def shell(page: Path) -> str:
    """What the shell blocks of a page say, without comments."""
    return re.sub(r"(^|\s)#.*", "", "\n".join(blocks(page, "", "bash", "sh", "console")))


def test_other_lines_of_shell_blocks_name_what_there_is():
    """Targets of make, extras, modules, batch scripts."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    scripts = {path.name for path in (ROOT / "fp4jax/cli/slurm").iterdir()}
    for page in [*WITH_COMMANDS, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]:
        text = shell(page)
        assert set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE)) <= targets, page
        named = ",".join(re.findall(r"(?:fp4jax[\w.-]*|\.)\[([\w,]+)\]", text)).split(",")
        assert set(filter(None, named)) <= set(extras["optional-dependencies"]), page
        assert set(re.findall(r"[\w-]+\.sbatch", text)) <= scripts, page
        for module in re.findall(
            r"python3? -m ((?:fp4jax|experiments|benchmarks|docs)[\w.]*)", text
        ):
            assert importlib.util.find_spec(module) is not None, f"{name(page)}: {module}"


def test_links_of_pages_lead_to_files():
    for page in [*PAGES, ROOT / "README.md"]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
            assert (page.parent / target).exists(), f"{name(page)}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TUTORIALS if blocks(page, "bash")], ids=name)
def test_commands_of_a_tutorial_run(page, tmp_path):
    """As they stand, one after the other, in an empty folder; those that need more have no bash."""
    program = tmp_path / "bin" / "fp4jax"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fp4jax "$@"\n')
    program.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    env = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    script = "\n".join(["set -e", *blocks(page, "bash")])
    done = subprocess.run(["bash", "-c", script], cwd=here, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
