"""Runs from start to end: what is open is trained, under locks, and evaluated."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from fp4jax.data import Cohort, Split
from fp4jax.train import scale_options
from fp4jax.train.arrays import memory_errors
from fp4jax.train.best import read_best
from fp4jax.train.config import RunConfig, counted
from fp4jax.train.environment import environment
from fp4jax.train.folder import RunFolder
from fp4jax.train.following import FollowedFolder, check_asked, created, held_by_first
from fp4jax.train.group import Group, Options, tidy
from fp4jax.train.lane import DivergedError
from fp4jax.train.listeners import Listeners
from fp4jax.train.lock import BusyError
from fp4jax.train.member import Member, bound, member_of, summarize, teacher_of
from fp4jax.train.program import fitted, key_of, program_of
from fp4jax.train.signals import Termination
from fp4jax.train.task import Data


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
    devices = options.devices
    if len({key_of(config) for config in configs}) != 1:
        raise ValueError(
            f"{len(configs)} runs that differ in more than seed and split; train them apart."
        )
    data = bound(configs[0], data)
    members = [_followed(member_of(config, data, out, split), options) for config in configs]
    if devices is not None:
        check_asked(devices, [counted(member.identity) for member in members])
    for member in members if options.writes else ():
        # A process may have been killed between the summary and this.
        tidy(member.folder)
        if member.finished:
            _tell(member, options)
    open_ = _open(members, options)
    if open_:
        # What does not fit fails before there is a folder.
        if devices is not None:
            devices.check(members[0].config.batch_size)  # pyright: ignore[reportArgumentType]
        data.check(configs[0])
        program_of(configs[0], len(data.channels), len(data.regions), devices=devices)
        for one in (member for member in open_ if member.config.warm_start_steps):
            feed = data.feed(one.config, one.split.train, one.config.seed)
            scale_options.check_steps(one.config, feed.steps)
        data.prepare([p for m in open_ for p in (*m.split.train, *m.split.val, *m.split.test)])
    problems: list[Exception] = []
    if open_ and configs[0].method != "qat":
        baselines = [member.config.teacher() for member in open_]
        try:
            train_together(baselines, data, out, split=split, options=options)
        except (DivergedError, BusyError) as error:
            problems.append(error)
        taught = _finished([teacher_of(member, data, out, split) for member in open_], options)
        open_ = [member for member, is_over in zip(open_, taught, strict=True) if is_over]
    for group in _groups(open_, options):
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


def _open(members: Sequence[Member], options: Options) -> list[Member]:
    """Those that are not finished."""
    finished = _finished(members, options)
    return [member for member, is_over in zip(members, finished, strict=True) if not is_over]


def _finished(members: Sequence[Member], options: Options) -> list[bool]:
    """Whether each is finished, as the first process sees it."""
    finished = [member.finished for member in members]
    return finished if options.devices is None else options.devices.said(finished)


def _followed(member: Member, options: Options) -> Member:
    """A run as a process takes part in it: only the first of several writes into its folder."""
    if options.writes:
        return member
    return dataclasses.replace(member, folder=FollowedFolder(member.folder.path))


def _groups(members: Sequence[Member], options: Options) -> list[list[Member]]:
    """Side by side on accelerators; else, and on several devices, one after the other."""
    together = jax.default_backend() != "cpu" and options.devices is None
    if not together or (members and members[0].config.method == "ptq"):
        return [[member] for member in members]
    return [list(members)] if members else []


def _train_group(
    group: Sequence[Member], data: Data, out: Path, split: Split | None, options: Options
) -> None:
    """Trains the runs that are open, under their locks."""
    made = environment()
    for member in group:
        split_record = {**dataclasses.asdict(member.split), "contents": dict(data.contents)}
        create = functools.partial(member.folder.create, member.identity, split_record, made)
        created(options.devices, create, member.folder.path)
    folders = [member.folder.path for member in group]
    with held_by_first(options.devices, *folders, wait=options.wait) as lock, memory_errors():
        # Another process may have finished them while this one waited.
        group = _open(group, options)
        if not group:
            return
        if group[0].config.method == "ptq":
            for member in group:
                _quantize_after(member, teacher_of(member, data, out, split), data, options)
                if options.writes:
                    _tell(member, options)
            return
        trained = Group(group, data, lock, options)
        with Termination() as termination, trained.told() as listener:
            listener.begins([member.config for member in group])
            trained(out, split, termination, listener)


def _tell(member: Member, options: Options) -> None:
    """Says that a run has ended that no group trains."""
    listener = Listeners([options.listener] if options.listener else [])
    listener.ended(member.config, member.folder.summary(), member.folder.path)


def _quantize_after(member: Member, teacher: Member, data: Data, options: Options) -> None:
    """The weights of a trained baseline with the recipe's forward pass, and no further step."""
    sizes, devices = (len(data.channels), len(data.regions)), options.devices
    own = program_of(teacher.config, *sizes).abstract()
    params, stats = read_best(teacher.folder.path, (own.params, own.stats))
    program = program_of(member.config, *sizes, devices=devices)
    like = program.abstract()
    best = fitted(like.params, params), fitted(like.stats, stats)
    trained: Any = teacher.folder.summary()
    same = {key: trained[key] for key in ("best_epoch", "epochs_run")}
    about = {"ended": "not trained", "train_seconds": 0.0, "lanes": 1}
    summarize(member, program, best, data, same | about, devices)
