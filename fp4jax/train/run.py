"""Runs from start to end: folder, lock, training, evaluation of the best epoch, summary."""

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from fp4jax.data import Cohort, Split
from fp4jax.train.arrays import memory_errors
from fp4jax.train.best import finish, read_best, write_best
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.config import RunConfig, id_of
from fp4jax.train.console import progress_bar
from fp4jax.train.distilling import teachers_of
from fp4jax.train.environment import environment
from fp4jax.train.fit import Fit, Saving, Start
from fp4jax.train.folder import RunFolder
from fp4jax.train.lane import DivergedError, Lane
from fp4jax.train.listeners import Guarded, Listener
from fp4jax.train.lock import BusyError, Held, held
from fp4jax.train.model import Model
from fp4jax.train.program import Program, key_of, parameters, program_of
from fp4jax.train.resume import checkpoints_of, is_over, resumed, start_group
from fp4jax.train.signals import Termination
from fp4jax.train.task import Data

# of summary.json
SCHEMA = 3


@dataclasses.dataclass(frozen=True)
class Options:
    """How runs are trained, beside what their numbers depend on.

    Attributes:
        listener: is told about steps, epochs and ends; default: a progress bar on terminals.
        saving: when checkpoints are written.
        wait: seconds to wait for a run that another process trains; None: until it has ended.
    """

    listener: Listener | None = None
    saving: Saving = dataclasses.field(default_factory=Saving)
    wait: float | None = 0.0


@dataclasses.dataclass(frozen=True)
class _Member:
    """A run of a group, before it is trained."""

    config: RunConfig
    split: Split
    identity: dict[str, Any]
    folder: RunFolder

    @property
    def finished(self) -> bool:
        return self.folder.summary() is not None


def train(
    config: RunConfig,
    data: Data | Cohort,
    out: Path,
    seeds: Sequence[int] | None = None,
    *,
    split: Split | None = None,
    options: Options | None = None,
) -> list[RunFolder]:
    """Trains a run per seed and evaluates it; returns the folders, which have a summary each.

    Finished runs are not touched, unfinished ones go on from their last checkpoint. All seeds
    share one compilation; on accelerators they are lanes of one ``vmap``. The methods ``qad`` and
    ``ptq`` train the baseline run first, if it is not there.

    Args:
        config: of the runs; ``seeds`` replaces its seed.
        data: what ``config.data.open(source)`` returned, or for slices a cohort.
        out: the runs' folders lie in here, named by their ids.
        seeds: default: the configuration's.
        split: default: that of the configuration.
        options: see :class:`Options`.

    Raises:
        ValueError: data that do not fit, or a folder that holds another run.
        fp4jax.train.DivergedError: a loss that is not finite; the other runs are finished.
        fp4jax.train.BusyError: another process trains one of the runs; the others are finished.
        fp4jax.train.Terminated: on SIGTERM, after a checkpoint.
        fp4jax.train.OutOfMemoryError: of a device or of the host.
        OSError: a disk that is full or read-only.

    Example:
        >>> import tempfile
        >>> from fp4jax.data import phantom
        >>> from fp4jax.train import Slices
        >>> cohort = phantom.load(patients=20, slices=4, image_size=16, cache=False)
        >>> small = {"model_options": {"stages": 2, "channels": 16}, "batch_size": 16}
        >>> data = Slices("phantom", image_size=16, augment=False)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     (folder,) = train(RunConfig(data, arch="cnn", epochs=1, **small), cohort, Path(out))
        ...     folder.summary()["epochs_run"]
        1
    """
    seeds = list(dict.fromkeys(seeds or [config.seed]))
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    return train_together(configs, data, out, split=split, options=options)


def train_together(
    configs: Sequence[RunConfig],
    data: Data | Cohort,
    out: Path,
    *,
    split: Split | None = None,
    options: Options | None = None,
) -> list[RunFolder]:
    """Like :func:`train`, for runs that differ in their seeds and splits alone.

    Raises:
        ValueError: the runs differ in more.
    """
    options = options or Options()
    if len({key_of(config) for config in configs}) != 1:
        raise ValueError(
            f"{len(configs)} runs that differ in more than seed and split; train them apart."
        )
    data = bound(configs[0], data)
    members = [member_of(config, data, out, split) for config in configs]
    open_ = [member for member in members if not member.finished]
    if open_:
        # What does not fit fails before there is a folder.
        program_of(configs[0], len(data.channels), len(data.regions))
        data.prepare([p for m in open_ for p in (*m.split.train, *m.split.val, *m.split.test)])
    problems: list[Exception] = []
    if open_ and configs[0].method != "qat":
        baselines = [member.config.teacher() for member in open_]
        try:
            train_together(baselines, data, out, split=split, options=options)
        except (DivergedError, BusyError) as error:
            problems.append(error)
        open_ = [member for member in open_ if _teacher(member, data, out, split).finished]
    for group in _groups(open_):
        try:
            _train_group(group, data, out, split, options)
        except (DivergedError, BusyError) as error:
            problems.append(error)
    if problems:
        first = problems[0]
        if len(problems) > 1 and all(isinstance(p, DivergedError) for p in problems):
            raise DivergedError("; ".join(map(str, problems)))
        raise first
    return [member.folder for member in members]


def bound(config: RunConfig, data: Data | Cohort) -> Data:
    """Data of a run; a cohort that is in memory becomes that of its task.

    Raises:
        ValueError: a cohort for a task of another kind, or with images of another size.
    """
    if not isinstance(data, Cohort):
        return data
    bind = getattr(config.data, "bind", None)
    if bind is None:
        raise ValueError(f"a cohort is no data of the task {config.data.kind!r}; open its files.")
    return bind(data)


def member_of(config: RunConfig, data: Data, out: Path, split: Split | None = None) -> _Member:
    """The run that a configuration is on some data."""
    split = split or data.split(config)
    identity = config.identity(data, split)
    return _Member(config, split, identity, RunFolder(out / id_of(config, identity)))


def _teacher(member: _Member, data: Data, out: Path, split: Split | None) -> _Member:
    return member_of(member.config.teacher(), data, out, split)


def _groups(members: Sequence[_Member]) -> list[list[_Member]]:
    """Side by side on accelerators; one after the other on CPU, and where nothing is trained."""
    if jax.default_backend() == "cpu" or (members and members[0].config.method == "ptq"):
        return [[member] for member in members]
    return [list(members)] if members else []


def _train_group(
    group: Sequence[_Member], data: Data, out: Path, split: Split | None, options: Options
) -> None:
    """Trains the runs that are open, under their locks."""
    made = environment()
    for member in group:
        member.folder.create(
            member.identity,
            {**dataclasses.asdict(member.split), "contents": dict(data.contents)},
            made,
        )
    folders = [member.folder.path for member in group]
    with held(*folders, wait=options.wait) as lock, memory_errors():
        # Another process may have finished them while this one waited.
        group = [member for member in group if not member.finished]
        if not group:
            return
        if group[0].config.method == "ptq":
            for member in group:
                _quantize_after(member, _teacher(member, data, out, split), data)
            return
        listener = options.listener
        with Termination() as termination, _told(listener, group, data) as told:
            told.begins([member.config for member in group])
            _Group(group, data, lock, termination, told, options.saving)(out, split)


@contextlib.contextmanager
def _told(listener: Listener | None, group: Sequence[_Member], data: Data):
    if listener is not None:
        yield Guarded(listener)
        return
    config = group[0].config
    name = f"{config.arch} {config.scale} {config.recipe_name}"
    steps = max(data.feed(m.config, m.split.train, m.config.seed).steps for m in group)
    done = max(member.folder.status().epoch for member in group)
    with progress_bar(name, config.epochs * steps, done * steps, config.epochs) as bar:
        yield Guarded(bar)


class _Group:
    """Runs that are trained side by side, or one alone."""

    def __init__(
        self,
        members: Sequence[_Member],
        data: Data,
        lock: Held,
        termination: Termination,
        listener: Listener,
        saving: Saving,
    ):
        self.members, self.data, self.lock = members, data, lock
        self.termination, self.listener, self.saving = termination, listener, saving
        count = len(members)
        self.program = program_of(
            members[0].config, len(data.channels), len(data.regions), None if count == 1 else count
        )

    def __call__(self, out: Path, split: Split | None) -> None:
        members, data = self.members, self.data
        feeds = [data.feed(m.config, m.split.train, m.config.seed) for m in members]
        lanes = [
            Lane.of(m.config, m.folder, m.split, feed)
            for m, feed in zip(members, feeds, strict=True)
        ]
        before = {checkpoints_of(m.folder) for m in members}
        starts = [resumed(lane, self.program) or _new(self.program, lane) for lane in lanes]
        teachers = None
        if members[0].config.method == "qad":
            folders = [_teacher(m, data, out, split).folder for m in members]
            teachers = teachers_of(self.program, lanes, folders, data)
        for member in members:
            member.folder.clear_failure()
        where, group = self._place(out)
        checkpoints = Checkpoints(where)
        try:
            fit = Fit(
                self.program,
                data,
                lanes,
                starts,
                checkpoints,
                saving=self.saving,
                listener=self.listener,
                termination=self.termination,
                ended=self._finish,
                reached=lambda lane: self._report(lane, group, lanes.index(lane)),
                teachers=teachers,
            )
            if before != {where}:
                # Before status.json names the new place, what the lanes go on from is there.
                fit.save()
                checkpoints.wait()
            for i, lane in enumerate(lanes):
                self._report(lane, group, i)
            fit()
        finally:
            checkpoints.close()
        self._tidy(before | {where})
        failed = [f"{lane.name}: {lane.ended}" for lane in lanes if lane.failed]
        if failed:
            raise DivergedError("; ".join(failed))

    def _place(self, out: Path) -> tuple[Path, Path | None]:
        """Where the checkpoint goes, and the folder of a group of several."""
        names = [member.folder.path.name for member in self.members]
        if len(names) == 1:
            return self.members[0].folder.checkpoints, None
        name = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
        group = start_group(out, name, names)
        return group / "checkpoints", group

    def _report(self, lane: Lane, group: Path | None, i: int) -> None:
        self.lock.report(
            lane.folder.path,
            epoch=lane.epoch,
            epochs=lane.config.epochs,
            group=group,
            lane=None if group is None else i,
        )

    def _finish(self, lane: Lane, best: tuple[Any, Any]) -> None:
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
        summarize(member, self.program, best, self.data, about)
        self.listener.ended(lane.config, lane.folder.summary(), lane.folder.path)

    def _tidy(self, places: set[Path]) -> None:
        """Deletes the checkpoints that nobody goes on from."""
        for member in self.members:
            if member.finished:
                finish(member.folder.path)
        for place in places:
            if place.parent.parent.name == ".groups" and is_over(place.parent):
                _remove(place.parent)


def _new(program: Program, lane: Lane) -> Start:
    state = program.start(lane.config.seed)
    return Start(state, jax.tree.map(jax.numpy.copy, (state.params, state.stats)))


def _remove(group: Path) -> None:
    shutil.rmtree(group, ignore_errors=True)
    with contextlib.suppress(OSError):
        group.parent.rmdir()


def _quantize_after(member: _Member, teacher: _Member, data: Data) -> None:
    """The weights of a trained baseline with the recipe's forward pass, and no further step."""
    program = program_of(member.config, len(data.channels), len(data.regions))
    like = program.abstract()
    best = read_best(teacher.folder.path, (like.params, like.stats))
    trained: Any = teacher.folder.summary()
    same = {key: trained[key] for key in ("best_epoch", "epochs_run")}
    about = {"ended": "not trained", "train_seconds": 0.0, "lanes": 1}
    summarize(member, program, best, data, same | about)


def summarize(
    member: _Member, program: Program, best: tuple[Any, Any], data: Data, about: dict[str, Any]
) -> None:
    """Evaluates parameters, keeps them, and writes ``summary.json``."""
    config, folder = member.config.resolved(), member.folder
    write_best(folder.path, best)
    model = Model(program, *best, data.channels, data.regions)
    scores = data.evaluate(model, member.split, folder.path)
    record = config.to_json()
    folder.write_summary(
        {
            "schema": SCHEMA,
            **record,
            "recipe": config.recipe_name,
            "channels": list(data.channels),
            "regions": list(data.regions),
            "parameters": parameters(best[0]),
            **about,
            "device": jax.devices()[0].device_kind,
            **scores,
        }
    )
