"""Runs side by side, as accelerators train them: the same code with CPU told to be one."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from fp4jax.train import DivergedError, RunFolder, fit, read_trained, train, train_together
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.lane import Lane
from tests import blobs
from tests.train import outcome

SEEDS = (1, 3)
COHORT = blobs.cohort()
LONG = blobs.config(recipe="baseline", epochs=4, early_stopping="none")
# with a rate this high, and no patience, the second lane stops before the first
CONFIG = dataclasses.replace(
    LONG, early_stopping="fixed", patience=1, warmup_epochs=1, learning_rate=0.05
)


@pytest.fixture(autouse=True, scope="module")
def accelerator() -> Iterator[None]:
    """All that asks for the back end takes the accelerator's path; values are computed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        yield


class KilledError(Exception):
    """Stands for a kill."""


def killed(monkeypatch, config, out, seeds, *, saves: int) -> None:
    """Trains until so many checkpoints are written."""
    save, calls = Checkpoints.save, []

    def counted(self, *args):
        if len(calls) == saves:
            self.wait()
            raise KilledError
        calls.append(args)
        save(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", counted)
        with pytest.raises(KilledError):
            train(config, COHORT, out, seeds, options=blobs.OFTEN)


def diverge(monkeypatch, seed: int, epoch: int) -> None:
    """The loss of a run is not finite in an epoch, as with an unlucky seed."""
    took = Lane.took

    def damaged(self, values):
        if self.config.seed == seed and self.epoch + 1 == epoch:
            values = {**values, "loss": np.full_like(values["loss"], np.nan)}
        took(self, values)

    monkeypatch.setattr(Lane, "took", damaged)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[RunFolder]:
    return train(CONFIG, COHORT, tmp_path_factory.mktemp("whole"), SEEDS, options=blobs.OFTEN)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> list[RunFolder]:
    return train(LONG, COHORT, tmp_path_factory.mktemp("long"), SEEDS)


def test_lanes_end_apart_and_leave_their_best(whole):
    summaries = [folder.summary() for folder in whole]
    assert [s["seed"] for s in summaries] == list(SEEDS)
    assert [s["lanes"] for s in summaries] == [2, 2]
    ran = [s["epochs_run"] for s in summaries]
    assert ran == [len(folder.history()) for folder in whole]
    assert len(set(ran)) == 2, "choose other seeds: both lanes stopped in the same epoch"
    for folder in whole:
        assert (folder.best.is_dir(), folder.checkpoints.exists()) == (True, False)
        assert str(folder.status()).endswith("finished")
    assert not (whole[0].path.parent / ".groups").exists()


def test_an_interrupted_group_ends_bit_equal(whole, tmp_path, monkeypatch):
    killed(monkeypatch, CONFIG, tmp_path, SEEDS, saves=2)
    unfinished = list(map(RunFolder, sorted(tmp_path.glob("cnn*"))))
    # What is there so far can be read: from the group's checkpoint.
    one = read_trained(unfinished[0].path)
    assert one.state.endswith("of 4, not finished")
    assert np.isfinite(one.model().logits(COHORT.images[:1])).all()
    again = train(CONFIG, COHORT, tmp_path, SEEDS, options=blobs.OFTEN)
    for folder, expected in zip(again, whole, strict=True):
        outcome.assert_same(folder, expected)


def test_a_lane_that_was_not_yet_evaluated_is_found_where_it_ended(whole, tmp_path, monkeypatch):
    write = RunFolder.write_summary
    last = max(whole, key=lambda folder: folder.summary()["epochs_run"]).path.name

    def fails(self, summary):
        if self.path.name == last:
            raise KilledError
        write(self, summary)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_summary", fails)
        with pytest.raises(KilledError):
            train(CONFIG, COHORT, tmp_path, SEEDS, options=blobs.OFTEN)
    done = next(f for f in map(RunFolder, tmp_path.glob("cnn*")) if f.path.name != last)
    before = outcome.contents(done)
    again = train(CONFIG, COHORT, tmp_path, SEEDS)
    assert outcome.contents(done) == before
    for folder, expected in zip(again, whole, strict=True):
        assert outcome.history(folder) == outcome.history(expected)
        assert folder.summary()["test"] == expected.summary()["test"]


def test_data_for_which_there_is_no_room_are_streamed(whole, tmp_path, monkeypatch):
    """From the host, to the same end."""
    monkeypatch.setattr(fit, "room", lambda: 0.0)
    for a, b in zip(train(CONFIG, COHORT, tmp_path, SEEDS), whole, strict=True):
        assert [r["best_epoch"] for r in a.history()] == [r["best_epoch"] for r in b.history()]
        losses = [[r["train_loss"] for r in folder.history()] for folder in (a, b)]
        np.testing.assert_allclose(*losses, rtol=1e-3)


def test_a_further_seed_touches_no_finished_run(long, monkeypatch):
    out = long[0].path.parent
    before = [outcome.contents(folder) for folder in long]
    killed(monkeypatch, LONG, out, [*SEEDS, 7], saves=2)
    assert [outcome.contents(folder) for folder in long] == before
    *same, further = train(LONG, COHORT, out, [*SEEDS, 7])
    assert [folder.path for folder in same] == [folder.path for folder in long]
    assert [outcome.contents(folder) for folder in long] == before
    assert further.summary()["epochs_run"] == 4
    assert [record["epoch"] for record in further.history()] == [1, 2, 3, 4]


def test_a_lane_that_diverges_holds_up_no_other(long, tmp_path, monkeypatch):
    """Also if the group is stopped after it, and goes on."""
    diverge(monkeypatch, seed=3, epoch=2)
    killed(monkeypatch, LONG, tmp_path, SEEDS, saves=2)
    for attempt in (1, 2):
        with pytest.raises(DivergedError, match=r"loss is nan at step 5 \(epoch 2\)") as error:
            train(LONG, COHORT, tmp_path, SEEDS, options=blobs.OFTEN)
        good, failed = sorted(
            map(RunFolder, tmp_path.glob("cnn*")), key=lambda f: "_s3_" in f.path.name
        )
        assert str(error.value).startswith(failed.path.name)
        assert "loss is nan at step 5" in failed.failure()["error"]
        assert failed.status().state == "failed"
        assert failed.summary() is None
        outcome.assert_same(good, long[0])
        if attempt == 1:
            before = outcome.contents(good)
        assert outcome.contents(good) == before


def test_folds_with_other_numbers_of_steps_are_side_by_side(tmp_path):
    folds = [
        dataclasses.replace(LONG, batch_size=12, epochs=2, split=name)
        for name in ("fold0", "fold2")
    ]
    data = LONG.data.bind(COHORT)
    steps = [data.feed(run, data.split(run).train, 1).steps for run in folds]
    assert steps == [3, 4]
    together = train_together(folds, data, tmp_path / "together")
    for run, folder in zip(folds, together, strict=True):
        (alone,) = train_together([run], data, tmp_path / "alone")
        assert alone.path.name == folder.path.name
        assert_close(alone, folder)


def test_a_lane_may_be_in_a_later_epoch_than_its_neighbour(long, tmp_path, monkeypatch):
    killed(monkeypatch, LONG, tmp_path, SEEDS[:1], saves=2)
    assert len(RunFolder(next(tmp_path.glob("cnn*"))).history()) == 3
    for folder, expected in zip(train(LONG, COHORT, tmp_path, SEEDS), long, strict=True):
        assert_close(folder, expected)
        assert [record["epoch"] for record in folder.history()] == [1, 2, 3, 4]
        assert not folder.checkpoints.exists()
    assert not (tmp_path / ".groups").exists()


def assert_close(one: RunFolder, other: RunFolder) -> None:
    """Sums of lanes are taken in another order than those of a run alone."""
    for name in ("train_loss", "val_loss", "learning_rate"):
        values = [[record[name] for record in folder.history()] for folder in (one, other)]
        np.testing.assert_allclose(*values, rtol=2e-3)


@pytest.mark.slow
def test_lanes_follow_single_runs_with_a_recipe(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, recipe="full")
    together = train(config, COHORT, tmp_path / "together", SEEDS)
    monkeypatch.undo()
    (alone,) = train(config, COHORT, tmp_path / "alone", SEEDS[:1])
    first = [folder.history()[0]["train_loss"] for folder in (alone, together[0])]
    np.testing.assert_allclose(*first, rtol=0.02)
