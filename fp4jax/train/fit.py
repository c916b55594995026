"""Fit: epochs, validation, early stopping and checkpoints of a group of lanes.

The order of examples in epoch e, and every random number, follow from the seed and e alone. So a
run that was stopped anywhere and goes on from a checkpoint ends with the same bits as one that
never stopped (on CPU, whose sums are always taken in the same order).
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.devices import Devices, agreed
from fp4jax.train.lane import DivergedError, Lane
from fp4jax.train.listeners import Listener
from fp4jax.train.model import Model, by_one, divided
from fp4jax.train.program import Program
from fp4jax.train.signals import Terminated, Termination
from fp4jax.train.state import Batch, Teacher, TrainState
from fp4jax.train.task import Data, Examples, Feed

# Steps that are dispatched before the values of an earlier one are looked at.
_AHEAD = 2
# Data may take this share of a device's memory.
_DATA_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Saving:
    """When a group is saved, beside its end and a termination.

    Example:
        >>> Saving(epochs=5)
        Saving(epochs=5, seconds=60.0)
    """

    # after every so many epochs; default: by time alone
    epochs: int | None = None
    # after an epoch that ends so many seconds after the last time
    seconds: float = 60.0

    def __post_init__(self):
        if (self.epochs is not None and self.epochs < 1) or not self.seconds >= 0:
            raise ValueError(
                f"a checkpoint every {self.epochs} epochs or {self.seconds} seconds; give at least "
                "1 epoch and 0 seconds."
            )


@dataclasses.dataclass
class Start:
    """What a lane begins or goes on with."""

    state: TrainState
    # parameters and statistics of its best epoch
    best: tuple[Any, Any]


class Fit:
    """Trains a group of runs that differ in seed and split alone; one run without lanes.

    Args:
        program: its ``lanes`` is the number of runs, or None for one.
        data: of all of them.
        lanes: the runs; some may be in later epochs than others, or have ended.
        starts: of each.
        checkpoints: of the group.
        saving: when it is saved.
        listener: is told about steps and epochs.
        termination: is looked at after each step.
        teachers: of each run, if the method is ``qad``.
        devices: of the program.
        ended: is called with a lane and its best (params, stats) once it has ended.
        reached: is called with a lane that has finished an epoch.
    """

    def __init__(
        self,
        program: Program,
        data: Data,
        lanes: Sequence[Lane],
        starts: Sequence[Start],
        checkpoints: Checkpoints,
        *,
        saving: Saving,
        listener: Listener,
        termination: Termination,
        ended: Callable[[Lane, tuple[Any, Any]], None],
        reached: Callable[[Lane], None] = lambda lane: None,
        teachers: Sequence[Teacher] | None = None,
        devices: Devices | None = None,
    ):
        self.devices = devices
        self.program, self.data, self.lanes = program, data, list(lanes)
        self.checkpoints, self.saving = checkpoints, saving
        self.listener, self.termination = listener, termination
        self._ended, self._reached = ended, reached
        self.state = self._stacked([start.state for start in starts])
        self.best = self._stacked([start.best for start in starts])
        self.teacher = None if teachers is None else self._stacked(list(teachers))
        self.resident = None
        if devices is not None:
            placed = (self.state, self.best, self.teacher)
            self.state, self.best, self.teacher = devices.everywhere(placed)
        elif jax.default_backend() != "cpu":
            self.resident = data.resident(room())
        # Whether a process of the training was asked to end.
        self._asked = False
        self._number = max(checkpoints.numbers(), default=0)
        self._saved, self._unsaved = time.monotonic(), 0

    def __call__(self) -> None:
        """Trains until all lanes have ended.

        A run whose loss is not finite is marked as failed; the others of the group go on.

        Raises:
            fp4jax.train.Terminated: this process was asked to end; the group is saved.
        """
        for lane in self.lanes:
            lane.folder.start_history(lane.epoch)
            self.listener.starts(lane.config, lane.folder.path)
            if lane.failed:
                # Before the group was stopped: it stays what it was.
                lane.folder.write_failure(DivergedError(lane.ended))
            elif lane.ended:
                # Stopped between its last checkpoint and its summary.
                self._end(lane)
        while active := [lane for lane in self.lanes if not lane.ended]:
            began = time.perf_counter()
            waited = self._train()
            self._unsaved += 1
            going = [lane for lane in active if not lane.failed]
            for lane in going:
                self._end_epoch(lane, began, waited)
            for lane in active:
                if lane.failed:
                    lane.folder.write_failure(DivergedError(lane.ended))
            over = [lane for lane in going if lane.ended and not lane.failed]
            due, asked = self._decided()
            if going and (over or due):
                self.save()
            for lane in over:
                # A disk that is full shows before the run counts as finished.
                self.checkpoints.wait()
                self._end(lane)
            if asked:
                self._terminate()

    def _end(self, lane: Lane) -> None:
        best = self.best if self.devices is None else self.devices.here(self.best)
        self._ended(lane, self._one(best, self.lanes.index(lane)))

    def _train(self) -> float | None:
        """The steps left in each lane's epoch; the share of the time waited for batches."""
        if self.resident is not None and all(self._orders()):
            self._train_resident()
            return None
        return self._train_by_steps()

    def _orders(self) -> list[bool]:
        return [lane.feed.order(lane.epoch + 1) is not None for lane in self.lanes]

    def _train_resident(self) -> None:
        """All steps in one scan; lanes with fewer stand still at its end."""
        most = max(lane.steps_left for lane in self.lanes)
        columns = []
        for lane in self.lanes:
            left = lane.steps_left
            order: Any = lane.feed.order(lane.epoch + 1)
            first = lane.feed.steps - left if left else 0
            index = np.resize(order[first:], (most, order.shape[1])).astype(np.int32)
            rates = np.resize(lane.rates(), most) if left else np.zeros(most, np.float32)
            epochs = np.full(most, lane.epoch + 1, np.int32)
            columns.append((index, epochs, rates, np.arange(most) < left))
        steps = jax.tree.map(jnp.asarray, self._stacked(columns, np.stack))
        images, targets = self.resident  # pyright: ignore
        self.state, values = self.program.epoch(self.state, images, targets, steps, self.teacher)
        values = jax.device_get(values)
        for i, lane in enumerate(self.lanes):
            if lane.steps_left:
                own = {name: self._one(column, i) for name, column in values.items()}
                lane.took({name: column[: lane.steps_left] for name, column in own.items()})
        self.listener.steps(most)

    def _train_by_steps(self) -> float:
        """One step after the other; the share of the time in which no step ran for want of data.

        An upper bound, because a step may end while the host waits.
        """
        began, waited = time.perf_counter(), 0.0
        most = max(lane.steps_left for lane in self.lanes)
        pending: collections.deque[tuple[dict[str, Any], list[bool]]] = collections.deque()
        with _Batches(self.lanes, self.devices) as batches:
            for _ in range(most):
                asked = time.perf_counter()
                batch, on = self._batch(batches)
                if not pending or pending[-1][0]["loss"].is_ready():
                    waited += time.perf_counter() - asked
                pending.append((self._step(batch, on), on))
                if len(pending) > _AHEAD:
                    self._look(*pending.popleft())
                self.listener.steps(1)
                if self._stops() or all(lane.ended for lane in self.lanes):
                    break
        for values, on in pending:
            self._look(values, on)
        if self._stops():
            self._terminate()
        return waited / max(time.perf_counter() - began, 1e-9)

    def _batch(self, batches: "_Batches") -> tuple[Batch, list[bool]]:
        rows = batches.next()
        parts = [
            (row.images, row.targets, row.index, np.int32(lane.epoch + 1), rate)
            for lane, (row, rate, _) in zip(self.lanes, rows, strict=True)
        ]
        stacked = self._stacked(parts, np.stack)
        if self.devices is not None:
            size: Any = self.program.config.batch_size
            return self.devices.batch(Batch(*stacked), size), [on for _, _, on in rows]
        return Batch(*map(jnp.asarray, stacked)), [on for _, _, on in rows]

    def _step(self, batch: Batch, on: list[bool]) -> dict[str, Any]:
        if self.devices is not None:
            asked = self.devices.flags(self.termination.asked)
            self.state, values = self.program.step(self.state, batch, asked, self.teacher)
        elif self.program.lanes is None:
            self.state, values = self.program.step(self.state, batch, self.teacher)
        else:
            self.state, values = self.program.step(self.state, batch, jnp.array(on), self.teacher)
        return values

    def _look(self, values: dict[str, Any], on: list[bool]) -> None:
        """Tells each lane what a step of it measured."""
        values = jax.device_get(values)
        self._asked |= bool(values.pop("stop", False))
        for i, lane in enumerate(self.lanes):
            if on[i] and not lane.ended:
                lane.took({name: np.atleast_1d(self._one(v, i)) for name, v in values.items()})

    def _end_epoch(self, lane: Lane, began: float, waited: float | None) -> None:
        i = self.lanes.index(lane)
        scores: dict[str, float] = {}
        if lane.validates:
            scores = self._validated(lane)
        record, best = lane.end_epoch(scores, time.perf_counter() - began)
        if lane.failed:
            return
        if waited is not None:
            record["waited"] = round(waited, 4)
        if best:
            self._keep(i)
        lane.folder.append(record)
        self._reached(lane)
        self.listener.epoch(lane.name, record)

    def _validated(self, lane: Lane) -> dict[str, float]:
        """Scores of the parameters of a lane as they are now."""
        devices, now = self.devices, (self.state.params, self.state.stats)
        if devices is not None:
            now = devices.here(now)
        params, stats = self._one(now, self.lanes.index(lane))
        names = (self.data.channels, self.data.regions)
        model = Model(self.program, params, stats, *names, devices=divided(self.data, devices))
        return by_one(self.data, devices, lambda: self.data.validate(model, lane.split.val))

    def _keep(self, i: int) -> None:
        """The parameters of a lane are its best so far."""
        now = self.state.params, self.state.stats
        if self.program.lanes is None:
            # A copy: the step donates the state's arrays.
            self.best = jax.tree.map(jnp.copy, now)
        else:
            self.best = jax.tree.map(lambda old, new: old.at[i].set(new[i]), self.best, now)

    def _stops(self) -> bool:
        """Whether to end; of several processes all say the same after the same step."""
        return self.termination.asked if self.devices is None else self._asked

    def _decided(self) -> tuple[bool, bool]:
        """Whether a checkpoint is due, and whether to end."""
        own = (self._due(), self.termination.asked)
        if self.devices is None:
            return own
        every = self.devices.all(own)
        # By the first one's clock.
        return every[0][0], any(asked for _, asked in every)

    def _due(self) -> bool:
        by_epochs = self.saving.epochs is not None and self._unsaved >= self.saving.epochs
        return by_epochs or time.monotonic() - self._saved >= self.saving.seconds

    def save(self) -> None:
        """Writes a checkpoint of all lanes."""
        self._number += 1
        progress = {"lanes": [lane.progress() for lane in self.lanes]}
        self.checkpoints.save(self._number, self.state, self.best, progress)
        self._saved, self._unsaved = time.monotonic(), 0

    def _terminate(self) -> None:
        self.save()
        self.checkpoints.wait()
        raise agreed(Terminated())

    def _one(self, tree: Any, i: int) -> Any:
        """The tree of lane i."""
        return tree if self.program.lanes is None else jax.tree.map(lambda a: a[i], tree)

    def _stacked(self, trees: Sequence[Any], stack: Callable = jnp.stack) -> Any:
        """A tree per lane, as the program takes them."""
        if self.program.lanes is None:
            return trees[0]
        return jax.tree.map(lambda *leaves: stack(leaves), *trees)


class _Batches:
    """The batches of all lanes side by side; a lane without any more repeats its last one."""

    def __init__(self, lanes: Sequence[Lane], devices: Devices | None = None):
        self._left = [lane.steps_left for lane in lanes]
        self._rates = [iter(lane.rates()) if lane.steps_left else iter(()) for lane in lanes]
        self._feeds: list[Iterator[Examples]] = [
            # An ended lane has some batch too, because arrays of lanes have one shape.
            part_of(lane, devices).batches(
                lane.epoch + 1, lane.steps_done if lane.steps_left else 0
            )
            for lane in lanes
        ]
        self._last: list[Examples | None] = [None] * len(lanes)

    def next(self) -> list[tuple[Examples, np.float32, bool]]:
        """(batch, learning rate, whether it is to be taken) of each lane."""
        rows = []
        for i, feed in enumerate(self._feeds):
            on = self._left[i] > 0
            if on or self._last[i] is None:
                self._last[i] = next(feed)
            self._left[i] -= on
            row: Any = self._last[i]
            rows.append((row, np.float32(next(self._rates[i], 0.0)), on))
        return rows

    def __enter__(self) -> "_Batches":
        return self

    def __exit__(self, *_: object) -> None:
        for feed in self._feeds:
            close = getattr(feed, "close", None)
            if close is not None:
                close()


def part_of(lane: Lane, devices: Devices | None) -> Feed:
    """What this process draws of a lane's batches."""
    if devices is None:
        return lane.feed
    size: Any = lane.config.batch_size
    return lane.feed.of_rows(devices.rows(size))


def room() -> float:
    """Bytes that data may take on the device, infinite where the device does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return _DATA_SHARE * stats.get("bytes_limit", np.inf)
