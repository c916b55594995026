"""The program fp4jax: its verbs, what it says alone; other ways to a verb are the same."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fp4jax
from fp4jax.cli import command, program

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(monkeypatch, capsys):
    """call("report", "--help") -> (exit code, standard output, standard error)"""

    def call(*argv: str, module: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/bin/fp4jax", *argv])
        monkeypatch.setenv("COLUMNS", "100")
        code = 0
        try:
            if module:
                runpy.run_module(module, run_name="__main__")
            else:
                program.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


def test_what_it_says_alone(call):
    code, text, _ = call()
    assert (code, call("--help")) == (2, (0, text, ""))
    for name in program.VERBS:
        module = importlib.import_module(f"fp4jax.cli.verbs.{name.replace('-', '_')}")
        assert f"  {name} " in text
        assert str(module.__doc__).splitlines()[0] in text
    assert call("--version") == (0, f"fp4jax {fp4jax.__version__}\n", "")


def test_an_unknown_verb_is_one_line(call):
    code, out, err = call("studdy", "demo")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: no command 'studdy'; perhaps you meant study; allowed: data, tr")


def test_every_module_is_a_verb():
    files = {path.stem.replace("_", "-") for path in (ROOT / "fp4jax/cli/verbs").glob("[!_]*.py")}
    assert files == set(program.VERBS)
    old = {path.stem.replace("_", "-") for path in (ROOT / "experiments").glob("[!_]*.py")}
    assert old == files - {"slurm"}


@pytest.mark.parametrize("name", [name for name in program.VERBS if name != "slurm"])
def test_all_ways_lead_to_the_same(name, call, monkeypatch):
    """What a verb is, what it is told and how it is called in its help."""
    seen: list[Any] = []

    def run(*arguments, **options):
        seen.append((arguments, {"argv": None, **options}))

    monkeypatch.setattr(command, "main", run)
    file = name.replace("-", "_")
    monkeypatch.setattr(sys, "argv", ["x", "--seeds", "1"])
    runpy.run_module(f"experiments.{file}", run_name="__main__")
    for argv in ((name,), (file,)):
        call(*argv, "--seeds", "1")
    call(name, "--seeds", "1", module="fp4jax")
    assert len(seen) == 4
    # That of experiments reads the command line of the process, which is the same.
    (first, options), *others = seen
    for arguments, given in others:
        assert arguments == first
        assert given == {**options, "argv": ["--seeds", "1"]}
    assert options["prog"] == f"fp4jax {name}"


def test_help_is_the_same(call):
    code, text, _ = call("export", "--help")
    assert (code, "usage: fp4jax export" in text) == (0, True)
    assert call("--help", module="experiments.export") == (0, text, "")


def test_what_is_not_installed_is_one_line(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "fp4jax.cli.verbs.report")
    says = "error: tyro is not installed: pip install 'fp4jax[study]'\n"
    assert call("report", "runs") == (2, "", says)
    assert call("--help")[0] == 0


def test_batch_scripts_are_printed(call):
    for name in ("study", "report"):
        text = (ROOT / "fp4jax" / "cli" / "slurm" / f"{name}.sbatch").read_text()
        assert call("slurm", name) == (0, text, "")
        assert f'"$PYTHON" -m fp4jax {name} "$@"' in text


@pytest.mark.parametrize("words", [(), ("csh",), ("bash", "zsh")], ids=len)
def test_completion_is_for_one_shell(words, call):
    given = " ".join((program.COMPLETION, *words))
    error = f"error: {given}: name one shell of bash, zsh, tcsh, fish.\n"
    assert call(program.COMPLETION, *words) == (2, "", error)


@pytest.mark.slow
def test_a_shell_completes_verbs_and_options(tmp_path):
    """As bash calls it, with what was typed so far."""
    script = tmp_path / "completion"
    show = [sys.executable, "-m", "fp4jax", program.COMPLETION, "bash"]
    run = subprocess.run(show, capture_output=True, text=True, cwd=ROOT, check=True)
    script.write_text(run.stdout)

    def completed(*words: str) -> set[str]:
        line = f"""
            source {script}
            COMP_WORDS=(fp4jax {" ".join(words)})
            COMP_CWORD={len(words)}
            $(complete -p fp4jax | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        return set(found.stdout.split())

    assert completed("st") == {"study"}
    assert completed("tra") == {"train", "train-volumes"}
    assert "--recipe" in completed("train", "--reci")
    assert {"demo", "lgg-cpu"} <= completed("study", "''")
