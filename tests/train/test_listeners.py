"""Listeners: several, failing ones, and lines where there is no terminal."""

import math
import re
import warnings
from pathlib import Path

import pytest

from fp4jax.train.console import Lines, progress_bar
from fp4jax.train.curves import Curves, charts, sparkline
from fp4jax.train.folder import RunFolder
from fp4jax.train.listeners import Guarded, Listener, Listeners

CALLS = [
    ("begins", (["run"],)),
    ("starts", ("run", Path("runs/one"))),
    ("steps", (3,)),
    ("epoch", ("cnn", {"epoch": 1})),
    ("ended", ("run", None, Path("runs/one"))),
]


class Recorder(Listener):
    """Notes what it is told, then fails if it is told to."""

    def __init__(self, error: BaseException | None = None):
        self.calls, self.error = [], error

    def _note(self, *call):
        self.calls.append(call)
        if self.error:
            raise self.error

    def begins(self, runs):
        self._note("begins", (runs,))

    def starts(self, run, folder):
        self._note("starts", (run, folder))

    def steps(self, done):
        self._note("steps", (done,))

    def epoch(self, run, record):
        self._note("epoch", (run, dict(record)))
        record["changed"] = True

    def ended(self, run, summary, folder):
        self._note("ended", (run, summary, folder))


def test_a_failing_listener_stops_neither_run_nor_others():
    failing, good = Recorder(OSError("no route")), Recorder()
    listeners = Listeners([failing, good])
    with pytest.warns(RuntimeWarning, match="Recorder failed and training goes on: OSError: no ro"):
        listeners.begins(["run"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once
        for name, arguments in CALLS[1:]:
            getattr(listeners, name)(*arguments)
    assert failing.calls == good.calls == CALLS


def test_interruptions_pass():
    with pytest.raises(KeyboardInterrupt):
        Guarded(Recorder(KeyboardInterrupt())).steps(1)


def test_a_listener_cannot_change_the_record():
    record = {"epoch": 1}
    Guarded(Recorder()).epoch("cnn", record)
    assert record == {"epoch": 1}


def test_without_a_terminal_there_is_a_line_per_epoch(capsys):
    with progress_bar("cnn 4m", steps=10, epochs=20) as listener:
        assert isinstance(listener, Lines)
        listener.steps(5)
        record = {"epoch": 3, "train_loss": 0.41, "val_loss": 0.4, "val_auprc": 0.71}
        listener.epoch("cnn_4m_full", record | {"seconds": 12.4})
    out, err = capsys.readouterr()
    expected = "cnn_4m_full: epoch 3/20, loss 0.410, validation 0.400, AUPRC 0.710, 12 s\n"
    assert (out, err) == ("", expected)


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("cnn 4m", steps=10, done=2, epochs=3) as listener:
        assert not isinstance(listener, Lines)
        listener.steps(5)
        for epoch, loss in enumerate((0.9, 0.5, 0.1), 1):
            for lane in ("s1", "s2"):
                record = {"epoch": epoch, "train_loss": loss, "val_auprc": 1 - loss}
                listener.epoch(f"cnn_4m_full_{lane}_0123abcdef", record)
    drawn = capsys.readouterr().err
    assert "7/10" in drawn
    for lane in ("s1", "s2"):
        (line,) = re.findall(f"(cnn_4m_full_{lane} .*?)\\s*\r?\n", drawn)[-1:]
        assert "epoch 3/3  loss 0.100 █▅▁  AUPRC 0.900 ▁▅█" in line


def test_charts_of_a_run_that_goes_on_begin_with_its_first_epoch(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.append({"epoch": 1, "train_loss": 0.9})
    curves = Curves()
    curves.starts("run", folder.path)
    curves.epoch("run", {"epoch": 2, "train_loss": 0.3})
    assert [record["train_loss"] for record in curves.runs["run"]] == [0.9, 0.3]
    curves.ended("run", None, folder.path)
    assert not curves.runs


def test_a_chart_has_no_block_where_a_terminal_has_none():
    assert sparkline([0.0, 1.0, math.nan, 2.0], ascii_only=True) == "_+ @"
    assert list(charts([{"epoch": 1, "val_dice": 0.25}])) == ["", "Dice 0.250 ▁"]
