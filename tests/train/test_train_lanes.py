"""Seeds side by side, as accelerators run them: the same loop with CPU told to be one."""

import jax
import numpy as np
import pytest

from fp4jax.train import loop, train
from fp4jax.train.checkpoint import Checkpoints
from tests import blobs

SEEDS = (1, 2)


@pytest.fixture
def accelerator(monkeypatch):
    """All that asks for the back end takes the accelerator's path; values are computed here."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.fixture(scope="module")
def config():
    # the second lane, with no patience, stops before the first may
    return blobs.config(
        recipe="full", epochs=4, early_stopping="fixed", patience=1, warmup_epochs=1
    )


class KilledError(Exception):
    """Stands for a kill."""


def records(folders) -> list[list[dict]]:
    return [
        [{k: v for k, v in r.items() if k != "seconds"} for r in folder.history()]
        for folder in folders
    ]


@pytest.mark.usefixtures("accelerator")
def test_lanes_train_resume_and_are_recorded(config, tmp_path, monkeypatch):
    cohort = blobs.cohort()
    whole = train(config, cohort, tmp_path / "whole", SEEDS)
    summaries = [folder.summary() for folder in whole]
    assert [s["seed"] for s in summaries] == list(SEEDS)
    assert [s["lanes"] for s in summaries] == [2, 2]
    # Killed between the checkpoints of the two lanes: one of them has an epoch more.
    save, calls = Checkpoints.save, []

    def save_three(self, *args):
        calls.append(args)
        if len(calls) == 4:
            raise KilledError
        save(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_three)
        with pytest.raises(KilledError):
            train(config, cohort, tmp_path / "cut", SEEDS)
    again = train(config, cohort, tmp_path / "cut", SEEDS)
    assert records(again) == records(whole)
    for a, b in zip(again, whole, strict=True):
        ours, theirs = (
            {k: v for k, v in (f.summary() or {}).items() if k != "train_seconds"} for f in (a, b)
        )
        assert ours == theirs

    # Lanes that ended at different epochs are found again where they ended.
    for folder in whole:
        (folder.path / "summary.json").unlink()
    found = train(config, cohort, tmp_path / "whole", SEEDS)
    assert [f.summary()["epochs_run"] for f in found] == [s["epochs_run"] for s in summaries]
    assert records(whole) == records(again)

    # A cohort for which the device has no room is streamed from the host, to the same end.
    monkeypatch.setattr(loop, "_room", lambda: 0)
    for a, b in zip(train(config, cohort, tmp_path / "streamed", SEEDS), again, strict=True):
        assert [r["best_epoch"] for r in a.history()] == [r["best_epoch"] for r in b.history()]
        losses = [[r["train_loss"] for r in folder.history()] for folder in (a, b)]
        np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.slow
def test_lanes_follow_single_runs(config, tmp_path, monkeypatch):
    cohort = blobs.cohort()
    (alone,) = train(config, cohort, tmp_path / "alone", SEEDS[:1])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = train(config, cohort, tmp_path / "together", SEEDS)
    first = [folder.history()[0]["train_loss"] for folder in (alone, together[0])]
    np.testing.assert_allclose(*first, rtol=0.02)
