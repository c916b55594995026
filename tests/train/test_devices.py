"""Devices share a batch; rows of feeds are the parts of whole batches."""

import jax
import numpy as np
import pytest

from fp4jax.data import phantom
from fp4jax.train import Batch, Devices, Options, RunConfig, Source, Volumes, train
from fp4jax.train.config import counted
from fp4jax.train.devices import is_agreed
from fp4jax.train.following import check_asked, check_same
from tests import blobs
from tests.train.test_own_task import DotData, DotFeed

TWO = Devices.of(jax.devices()[:2])


def test_a_batch_is_divided_and_the_rest_is_everywhere():
    images = np.arange(8, dtype=np.float32).reshape(4, 2)
    part = Batch(images, images, np.arange(4, dtype=np.int32), np.int32(3), np.float32(0.5))
    batch = TWO.batch(part, 4)
    assert [shard.data.tolist() for shard in batch.images.addressable_shards] == [
        images[:2].tolist(),
        images[2:].tolist(),
    ]
    assert batch.epoch.is_fully_replicated
    assert TWO.here(batch.rate).devices() <= {jax.devices()[0]}
    assert np.asarray(TWO.flags(True)).tolist() == [1, 1]
    assert TWO.rows(4) == slice(0, 4)


def test_what_the_first_process_raises_is_raised_by_all():
    def fails():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full") as caught:
        TWO.by_first(fails)
    assert is_agreed(caught.value)
    assert TWO.by_first(lambda: 7) == 7
    check_same(TWO, [np.ones(3)])


def test_processes_that_were_given_other_commands(monkeypatch):
    data = blobs.config().data.bind(blobs.cohort())  # pyright: ignore

    def asked(**changes):
        config = blobs.config(**changes)
        return counted(config.identity(data, data.split(config)))

    def differing(*runs):
        monkeypatch.setattr(Devices, "all", lambda self, own: [own, own, list(runs)])
        with pytest.raises(ValueError, match="repeat the same command on all hosts") as caught:
            check_asked(TWO, [asked()])
        assert is_agreed(caught.value)
        return str(caught.value).partition(";")[0]

    start = "process 2 would train other runs than the first"
    assert differing(asked(epochs=5)).startswith(f"{start} (epochs is 5, not ")
    assert differing(asked(), asked(seed=3)) == f"{start} (2 of them, not 1)"
    assert differing({**asked(), "digest": "1"}) == f"{start} (the data differ)"
    monkeypatch.setattr(Devices, "all", lambda self, own: [own, [asked(plugins=("re",))]])
    check_asked(TWO, [asked()])


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size is 5, but 2 devices .* such as 4 or 6"):
        train(blobs.config(batch_size=5), blobs.cohort(), tmp_path, options=Options(devices=TWO))
    assert not list(tmp_path.iterdir())


def equal_rows(feed, count: int) -> None:
    """The parts of each batch are the whole one."""
    parts = [feed.of_rows(slice(0, 1)), feed.of_rows(slice(1, count))]
    wholes, *rest = (list(f.batches(2, 1)) for f in (feed, *parts))
    assert len(wholes) == len(rest[0]) == feed.steps - 1
    for whole, *pieces in zip(wholes, *rest, strict=True):
        for column, own in zip(whole, zip(*pieces, strict=True), strict=True):
            assert np.array_equal(column, np.concatenate(own))


def test_rows_of_slices_and_of_a_users_task():
    config, data = blobs.config(), blobs.config().data.bind(blobs.cohort())  # pyright: ignore
    equal_rows(data.feed(config, data.patients, 1), 8)
    dots = DotData(12, 8)
    equal_rows(DotFeed(dots, dots.patients, 4, 1), 4)


def test_rows_of_volumes(tmp_path):
    phantom.write_nifti(tmp_path / "all", patients=3, slices=12, image_size=16)
    config = RunConfig(Volumes(patch_size=(8, 8, 8), steps=4), arch="unet", batch_size=3)
    data = config.data.open(Source(tmp_path / "all", cache=tmp_path / "cache"))
    equal_rows(data.feed(config, data.patients, 1), 3)
