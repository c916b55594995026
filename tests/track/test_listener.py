"""Tracking: each epoch once, whatever fails; nothing of it is part of a run."""

import dataclasses
import threading
import time
import warnings
from pathlib import Path

import pytest

from fp4jax.track import (
    Log,
    Tracked,
    Tracker,
    Tracking,
    listener as module,
    register_tracker,
    tracker,
    tracking,
)
from fp4jax.train import Listeners, Options, RunConfig, RunFolder, SliceData, train
from fp4jax.train.member import member_of
from tests import blobs
from tests.registered import registries as registries

RUN = RunConfig(arch="cnn")


class Kept(Tracker):
    """Keeps in memory what it is told; fails as often as it is asked to."""

    def __init__(self, fails: int = 0, has: bool = False):
        self.fails, self.holds, self.said, self.threads = fails, has, [], set()

    def open(self, run):
        self.note("open", run.name)
        return KeptLog(self, run)

    def has(self, run):
        return self.holds

    def note(self, *what):
        self.threads.add(threading.current_thread())
        if self.fails:
            self.fails -= 1
            raise OSError("no route to host")
        self.said.append(what)


class KeptLog(Log):
    def __init__(self, tracker: Kept, run: Tracked):
        self.tracker, self.run = tracker, run

    def scalars(self, epoch, values):
        self.tracker.note(self.run.name, epoch, dict(values))

    def scores(self, epoch, values):
        self.tracker.note(self.run.name, "scores", epoch, dict(values))

    def picture(self, name, png):
        self.tracker.note(self.run.name, name, png[:4])

    def close(self, state):
        self.tracker.note(self.run.name, state)


def records(count: int) -> list[dict]:
    return [{"epoch": i, "train_loss": 1 / i} for i in range(1, count + 1)]


def folder_of(root: Path, count: int) -> RunFolder:
    """A run that came so far."""
    folder = RunFolder(root / "cnn_s1")
    folder.path.mkdir(parents=True)
    for record in records(count):
        folder.append(record)
    return folder


def curve(kept: Kept) -> list[tuple[int, float]]:
    return [(w[1], w[2]["train_loss"]) for w in kept.said if isinstance(w[1], int)]


def test_a_run_that_goes_on_is_told_what_was_before(tmp_path):
    kept, folder = Kept(), folder_of(tmp_path, 2)
    shown = Tracking("kept", kept)
    shown.starts(RUN, folder.path)
    for record in records(4)[2:]:
        folder.append(record)
        shown.epoch(folder.path.name, record)
    shown.ended(RUN, None, folder.path)
    shown.close()
    assert curve(kept) == [(r["epoch"], r["train_loss"]) for r in records(4)]
    assert kept.said[-1] == ("cnn_s1", "interrupted")
    assert threading.main_thread() not in kept.threads


def test_what_failed_is_told_later(tmp_path):
    """A warning once; and not one point is missing."""
    kept, folder = Kept(fails=2), folder_of(tmp_path, 0)
    shown = Tracking("lab", kept)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        listener = Listeners([shown])
        listener.starts(RUN, folder.path)
        for record in records(4):
            listener.epoch(folder.path.name, record)
            time.sleep(0.02)
        shown.close()
    assert [str(w.message) for w in caught] == [
        "listener lab failed and training goes on: OSError: no route to host"
    ]
    assert curve(kept) == [(r["epoch"], r["train_loss"]) for r in records(4)]


def test_a_tracker_that_never_answers_holds_nobody_up(tmp_path, monkeypatch):
    class Stuck(Tracker):
        def open(self, run):
            threading.Event().wait(5)
            return Log()

    monkeypatch.setattr(module, "PATIENCE", 0.1)
    folder = folder_of(tmp_path, 1)
    shown = Tracking("stuck", Stuck())
    began = time.monotonic()
    shown.starts(RUN, folder.path)
    shown.epoch(folder.path.name, records(1)[0])
    with pytest.raises(TimeoutError, match=r"no answer in 0\.1 s"):
        shown.close()
    assert time.monotonic() - began < 2


def test_a_finished_run_that_the_tracker_has_is_not_told_again(tmp_path):
    folder = folder_of(tmp_path, 3)
    summary = {"test": {"auprc": 0.5}, "threshold": 0.3, "test_patients": {"of a name": 0.1}}
    for has in (True, False):
        kept = Kept(has=has)
        shown = Tracking("kept", kept)
        shown.ended(RUN, summary, folder.path)
        shown.close()
        assert (kept.said == []) == has
    assert curve(kept) == [(r["epoch"], r["train_loss"]) for r in records(3)]
    expected = {"threshold": 0.3, "test_auprc": 0.5}
    assert kept.said[-2:] == [("cnn_s1", "scores", 3, expected), ("cnn_s1", "finished")]
    assert "of a name" not in str(kept.said)


def test_of_two_processes_one_tells(tmp_path):
    """Workers of a study are all told of what is finished."""
    folder, summary = folder_of(tmp_path, 3), {"test": {}}
    training, other, later = Kept(), Kept(), Kept()
    of = {kept: Tracking("same", kept, locks=tmp_path / "locks") for kept in (training, other)}
    of[training].starts(RUN, folder.path)
    while len(curve(training)) < 3:
        time.sleep(0.01)
    of[other].ended(RUN, summary, folder.path)
    of[other].close()
    of[training].ended(RUN, summary, folder.path)
    of[training].close()
    assert other.said == []
    assert training.said[-1] == ("cnn_s1", "finished")
    third = Tracking("same", later, locks=tmp_path / "locks")
    third.ended(RUN, summary, folder.path)
    third.close()
    assert later.said[-1] == ("cnn_s1", "finished")
    assert not list((tmp_path / "locks").iterdir())


def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, registries):
    with pytest.raises(ValueError, match="no tracker 'neptune'; known names: tensorboard"):
        tracker("neptune:lab", tmp_path)
    with pytest.raises(ValueError, match="name each tracker once"), tracking(["a", "a"], tmp_path):
        pass

    def absent(target, out):
        from fp4jax.extras import Extra

        with Extra("track"):
            import absent_package  # noqa: F401

    register_tracker("absent", absent)
    said = r"absent_package is not installed: pip install 'fp4jax\[track\]'"
    with pytest.raises(ModuleNotFoundError, match=said), tracking(["absent"], tmp_path):
        pass


def test_a_tracker_of_ones_own_sees_a_training(tmp_path, registries):
    """The same numbers as in the files, under the same id as without a tracker."""
    kept = {}

    def make(target, out):
        kept[target] = Kept()
        return kept[target]

    register_tracker("own", make)
    config = blobs.config(epochs=2)
    with tracking(["own:a", "own:b"], tmp_path) as listeners:
        options = Options(Listeners(listeners), progress=False)
        folders = train(config, blobs.cohort(), tmp_path / "with", [1, 2], options=options)
    data = SliceData(blobs.cohort())
    ids = [member_of(dataclasses.replace(config, seed=s), data, tmp_path) for s in (1, 2)]
    assert [run.folder.path.name for run in ids] == [folder.path.name for folder in folders]
    for one in kept.values():
        for folder in folders:
            own = [what[1:] for what in one.said if what[0] == folder.path.name]
            lines = [
                (r["epoch"], {k: float(v) for k, v in r.items() if k != "epoch"})
                for r in folder.history()
            ]
            assert own[:2] == lines
            assert own[2][:2] == ("scores", 2)
            assert own[2][2]["test_auprc"] == folder.summary()["test"]["auprc"]
            assert own[3:] == [("predictions", b"\x89PNG"), ("finished",)]
    # Tracked later, finished runs are told from their files.
    with tracking(["own:c"], tmp_path) as listeners:
        options = Options(Listeners(listeners), progress=False)
        train(config, blobs.cohort(), tmp_path / "with", [1, 2], options=options)
    assert sorted(map(repr, kept["c"].said)) == sorted(map(repr, kept["a"].said))
