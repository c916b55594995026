"""A task of a user's own, registered, trains, goes on and is evaluated like those built in."""

import dataclasses
import hashlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.data import Split
from fp4jax.train import (
    Data,
    Defaults,
    Examples,
    Feed,
    Listener,
    Monitor,
    Options,
    Saving,
    Source,
    Task,
    evaluate_folder,
    from_json,
    read_trained,
    register_task,
    tasks,
    train,
)
from tests import blobs
from tests.train import outcome
from tests.train.test_train_resume import At, interrupt


class DotFeed(Feed):
    def __init__(self, data, patients, batch_size, seed):
        self.data, self.seed, self.batch_size = data, seed, batch_size
        self.places = np.array([data.patients.index(name) for name in patients])
        self.steps = len(self.places) // batch_size

    def batches(self, epoch, first=0):
        order = np.random.default_rng([self.seed, epoch]).permutation(self.places)
        for step in range(first, self.steps):
            own = order[step * self.batch_size :][: self.batch_size].astype(np.int32)
            yield Examples(self.data.images[own], self.data.masks[own], own)


class DotData(Data):
    channels = ("grey",)
    regions = ("dot",)

    def __init__(self, count: int, size: int):
        rng = np.random.default_rng(0)
        self.images = rng.normal(size=(count, size, size, 1)).astype(np.float32)
        self.masks = (self.images[..., 0] > 1).astype(np.uint8)
        self.patients = tuple(f"dot{i:02}" for i in range(count))
        self.contents = {
            name: hashlib.sha256(image.tobytes()).hexdigest()
            for name, image in zip(self.patients, self.images, strict=True)
        }
        self.digest = hashlib.sha256(self.images.tobytes()).hexdigest()

    def split(self, config):
        return Split(self.patients[4:], self.patients[:2], self.patients[2:4])

    def feed(self, config, patients, seed):
        return DotFeed(self, patients, config.batch_size, seed)

    def validate(self, model, patients):
        return {"right": self.score(model, patients, 0.5)["right"]}

    def evaluate(self, model, split, folder):
        parts = {name: self.score(model, getattr(split, name), 0.5) for name in ("val", "test")}
        return {"threshold": 0.5, **parts, "test_patients": {}}

    def score(self, model, patients, threshold, folder=None):
        own = [self.patients.index(name) for name in patients]
        found = model.logits(self.images[own])[..., 0] > np.log(threshold / (1 - threshold))
        return {"right": float(np.mean(found == self.masks[own]))}


@dataclasses.dataclass(frozen=True)
class Dots(Task):
    """Noise, whose bright pixels are to be found."""

    count: int = 20
    size: int = 16

    monitor: ClassVar[Monitor] = Monitor("right", "max")
    defaults: ClassVar[Defaults] = Defaults("cnn", "500k", 4, "bce_dice", "constant", "none")

    @property
    def name(self) -> str:
        return "dots"

    def open(self, source: Source) -> DotData:
        return DotData(self.count, self.size)

    def model_arguments(self, config):
        return {"image_size": self.size}

    def batch(self, config, channels, regions):
        shape = (config.batch_size, self.size, self.size)
        images = jax.ShapeDtypeStruct((*shape, channels), jnp.float32)
        return images, jax.ShapeDtypeStruct(shape, jnp.uint8)


@pytest.fixture(scope="module", autouse=True)
def dots():
    from fp4jax.train import task

    register_task("dots", Dots)
    yield
    del task._TASKS["dots"]


CONFIG = blobs.config(data=Dots(), batch_size=None, epochs=3, recipe="baseline")


def test_it_trains_goes_on_and_is_evaluated(tmp_path):
    assert "dots" in tasks()
    data = CONFIG.data.open(Source())
    (whole,) = train(CONFIG, data, tmp_path / "whole")
    assert whole.path.name.startswith("cnn_500k_baseline_dots_holdout_s2026_")
    options = Options(At(6, interrupt), saving=Saving(epochs=1))
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "cut", options=options)
    (folder,) = train(CONFIG, data, tmp_path / "cut")
    outcome.assert_same(folder, whole)
    best = max(whole.history(), key=lambda record: record["val_right"])
    assert whole.summary()["best_epoch"] == best["epoch"]
    assert evaluate_folder(whole.path, data)["right"] == whole.summary()["test"]["right"]
    assert read_trained(whole.path).config == CONFIG.resolved()
    assert from_json(CONFIG.to_json()) == CONFIG
    # Of more of them, also those that were not there.
    assert evaluate_folder(whole.path, Dots(count=25).open(Source()))["patients"] == 2 + 5


class Broken(Listener):
    """Fails wherever it is told something."""

    def begins(self, runs):
        raise OSError("no route to host")

    steps = epoch = ended = begins


def test_a_listener_that_fails_costs_no_run(tmp_path):
    data = CONFIG.data.open(Source())
    with pytest.warns(RuntimeWarning, match="Broken failed and training goes on: OSError: no ro"):
        (folder,) = train(CONFIG, data, tmp_path, options=Options(Broken()))
    assert folder.summary()["epochs_run"] == 3


@pytest.mark.usefixtures("unchecked_types")
def test_what_is_no_task_is_refused():
    with pytest.raises(ValueError, match="is no task; give a frozen dataclass"):
        register_task("other", DotData)
    with pytest.raises(ValueError, match="there is a task 'slices' already"):
        register_task("slices", Dots)
    with pytest.raises(ValueError, match="no task 'others'; the tasks are: slices, volumes"):
        from_json(CONFIG.to_json() | {"data": {"kind": "others"}})
