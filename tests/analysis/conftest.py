"""What several files of tests of the analysis use."""

import importlib
import sys

import pytest


@pytest.fixture
def diagnose(monkeypatch, capsys):
    """diagnose("folder", "--recipes", "1") -> (exit code, standard output, standard error)"""

    def call(*arguments: object) -> tuple[int, str, str]:
        module = importlib.import_module("fp4jax.cli.verbs.diagnose")
        monkeypatch.setattr(sys, "argv", ["diagnose", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            module.VERB.run()
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return call
