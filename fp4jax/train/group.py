"""Group: runs that are trained side by side, or one alone, under their locks."""

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from fp4jax.data import Split
from fp4jax.train.best import finish
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.console import progress_bar
from fp4jax.train.devices import Devices, agreed
from fp4jax.train.distilling import teachers_of
from fp4jax.train.fit import Fit, Saving, Start
from fp4jax.train.folder import RunFolder
from fp4jax.train.following import Followed, check_same
from fp4jax.train.lane import DivergedError, Lane
from fp4jax.train.listeners import Listener, Listeners
from fp4jax.train.lock import Held
from fp4jax.train.member import Member, summarize, teacher_of
from fp4jax.train.program import Program, program_of
from fp4jax.train.resume import GROUPS, checkpoints_of, is_over, resumed, start_group
from fp4jax.train.signals import Termination
from fp4jax.train.task import Data


@dataclasses.dataclass(frozen=True)
class Options:
    """How runs are trained, beside what their numbers depend on.

    Attributes:
        listener: is told about steps, epochs and ends.
        saving: when checkpoints are written.
        wait: seconds to wait for a run that another process trains; None: until it has ended.
        progress: show a bar on terminals, and a line per epoch elsewhere.
        devices: that share each batch of a run; several processes make the same call with the
            same arguments. Default: one device, by this process alone.
    """

    listener: Listener | None = None
    saving: Saving = dataclasses.field(default_factory=Saving)
    wait: float | None = 0.0
    progress: bool = True
    devices: Devices | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes into the runs' folders, and tells people."""
        return self.devices is None or self.devices.first


class Group:
    """Runs that are trained side by side, or one alone."""

    def __init__(
        self, members: Sequence[Member], data: Data, lock: Held | Followed, options: Options
    ):
        self.members, self.data, self.lock, self.options = members, data, lock, options
        count = len(members)
        self.program = program_of(
            members[0].config,
            len(data.channels),
            len(data.regions),
            None if count == 1 else count,
            options.devices,
        )
        feeds = [data.feed(m.config, m.split.train, m.config.seed) for m in members]
        self.lanes = [
            Lane.of(m.config, m.folder, m.split, feed)
            for m, feed in zip(members, feeds, strict=True)
        ]

    def __call__(
        self, out: Path, split: Split | None, termination: Termination, listener: Listener
    ) -> None:
        members, data, lanes = self.members, self.data, self.lanes
        before = {checkpoints_of(m.folder) for m in members}
        starts = [resumed(lane, self.program) or _new(self.program, lane) for lane in lanes]
        teachers = None
        if members[0].config.method == "qad":
            folders = [teacher_of(m, data, out, split).folder for m in members]
            teachers = teachers_of(self.program, lanes, folders, data)
        if self.options.devices is not None:
            check_same(self.options.devices, [(start.state, start.best) for start in starts])
        for member in members:
            member.folder.clear_failure()
        where, group = self._place(out)
        checkpoints = Checkpoints(where, devices=self.options.devices)
        try:
            fit = Fit(
                self.program,
                data,
                lanes,
                starts,
                checkpoints,
                saving=self.options.saving,
                listener=listener,
                termination=termination,
                ended=lambda lane, best: self._finish(lane, best, listener),
                reached=lambda lane: self._report(lane, group),
                teachers=teachers,
                devices=self.options.devices,
            )
            if before != {where}:
                # Before status.json names the new place, what the lanes go on from is there.
                fit.save()
                checkpoints.wait()
            for lane in lanes:
                self._report(lane, group)
            fit()
        finally:
            checkpoints.close()
        if self.options.writes:
            for member in members:
                tidy(member.folder, *before, where)
        failed = [f"{lane.name}: {lane.ended}" for lane in lanes if lane.failed]
        if failed:
            raise agreed(DivergedError("; ".join(failed)))

    @contextlib.contextmanager
    def told(self) -> Iterator[Listener]:
        """Whoever listens, and what is shown."""
        config = self.members[0].config
        name = f"{config.arch} {config.scale} {config.recipe_name}"
        others = [self.options.listener] if self.options.listener else []
        if not self.options.writes:
            yield Listeners([])
            return
        if not self.options.progress:
            yield Listeners(others)
            return
        steps = max(lane.feed.steps for lane in self.lanes)
        done = min(member.folder.status().epoch for member in self.members)
        with progress_bar(name, config.epochs * steps, done * steps, config.epochs) as bar:
            yield Listeners([bar, *others])

    def _place(self, out: Path) -> tuple[Path, Path | None]:
        """Where the checkpoint goes, and the folder of a group of several."""
        names = [member.folder.path.name for member in self.members]
        if len(names) == 1:
            return self.members[0].folder.checkpoints, None
        name = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
        group = start_group(out, name, names)
        return group / "checkpoints", group

    def _report(self, lane: Lane, group: Path | None) -> None:
        self.lock.report(
            lane.folder.path,
            epoch=lane.epoch,
            epochs=lane.config.epochs,
            seconds=round(lane.seconds / lane.epoch, 3) if lane.epoch else None,
            group=group,
            lane=None if group is None else self.lanes.index(lane),
        )

    def _finish(self, lane: Lane, best: tuple[Any, Any], listener: Listener) -> None:
        """Evaluates the best epoch of a run that has ended and writes what a finished run has."""
        self.lock.check()
        member = next(m for m in self.members if m.folder is lane.folder)
        about = {
            "best_epoch": lane.best_epoch,
            "epochs_run": lane.epoch,
            "ended": lane.ended,
            "train_seconds": round(lane.seconds, 3),
            "lanes": len(self.members),
        }
        summarize(member, self.program, best, self.data, about, self.options.devices)
        listener.ended(lane.config, lane.folder.summary(), lane.folder.path)


def tidy(folder: RunFolder, *places: Path) -> None:
    """Deletes the checkpoints of a finished run, and of its groups if all of their runs are.

    Args:
        folder: of the run.
        places: where it had checkpoints, beside those that its status names.
    """
    if not folder.finished:
        return
    places = (*places, checkpoints_of(folder))
    if folder.checkpoints.exists():
        finish(folder.path)
    for group in {place.parent for place in places if place.parent.parent.name == GROUPS}:
        if group.exists() and is_over(group):
            _remove(group)


def _new(program: Program, lane: Lane) -> Start:
    state = program.start(lane.config.seed)
    return Start(state, jax.tree.map(jax.numpy.copy, (state.params, state.stats)))


def _remove(group: Path) -> None:
    shutil.rmtree(group, ignore_errors=True)
    with contextlib.suppress(OSError):
        group.parent.rmdir()
