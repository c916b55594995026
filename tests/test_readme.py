"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import jax
import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) == 3


def test_it_is_a_page():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("code", EXAMPLES, ids=["quantize", "train", "calibrate"])
@pytest.mark.usefixtures("standard_promotion")
def test_example_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out
    jax.effects_barrier()


@pytest.mark.parametrize("code", EXAMPLES, ids=["quantize", "train", "calibrate"])
def test_example_is_short(code):
    """Twelve lines that do something; imports and blank lines aside."""
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("import")]
    assert len(lines) <= 16
