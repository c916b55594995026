"""The profile of a compiled training step: its classes of work, and what it uses of the machine."""

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import hlo_text, profile_trace
from benchmarks.bench_train import Compiled
from benchmarks.hlo_classes import OTHER, shares
from benchmarks.profile_trace import BETWEEN


class Usage(NamedTuple):
    """Of one step: seconds of wall time, of all threads' CPU and system time; page faults.

    ``others`` are the CPU seconds that other processes of the machine took meanwhile.
    """

    wall: float
    cpu: float
    system: float
    faults: float
    others: float = 0.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """Of the step of one recipe; seconds.

    Attributes:
        usage: without the profiler.
        traced: the step with it.
        wall, cores: by class, the time that it takes and the threads that work meanwhile.
        mixed: time of fusions of several classes.
        unknown: time of traced instructions that the program's text does not have.
        temporary: bytes.
        top: (seconds, threads, instruction, where in the model) of those that take most.
    """

    usage: Usage
    traced: float
    wall: Mapping[str, float]
    cores: Mapping[str, float]
    mixed: float
    unknown: float
    temporary: int
    top: Sequence[tuple[float, float, str, str]]

    @property
    def idle(self) -> float:
        """Seconds of cores without work, of steps without the profiler."""
        return max(self.usage.wall * cores() - self.usage.cpu - self.usage.others, 0.0)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def used(call: Callable[[], Any]) -> Usage:
    """What one call takes."""
    machine = _machine_seconds()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    jax.block_until_ready(call())
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    user, system, faults = (
        getattr(after, name) - getattr(before, name)
        for name in ("ru_utime", "ru_stime", "ru_minflt")
    )
    others = _machine_seconds() - machine - user - system
    return Usage(wall, user + system, system, faults, others)


def _machine_seconds() -> float:
    """CPU seconds that all processes took since the start, and those that a hypervisor took away.

    In steps of some milliseconds; 0 where there is no /proc/stat.
    """
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0.0
    user, nice, system, _, _, interrupts, soft, steal = map(int, first.split()[1:9])
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")


def usages(calls: Sequence[Callable[[], Any]], rounds: int) -> list[Usage]:
    """Of several calls that take turns: the mean of the faster half of the rounds."""
    for call in calls:
        jax.block_until_ready(call())
    found = [[used(call) for call in calls] for _ in range(rounds)]
    return [_mean(sorted(of_one)[: _half(rounds)]) for of_one in zip(*found, strict=True)]


def _mean(found: Sequence[Usage]) -> Usage:
    return Usage(*(statistics.mean(column) for column in zip(*found, strict=True)))


def _half(count: int) -> int:
    return (count + 1) // 2


def profiles(programs: Mapping[str, Compiled], steps: int, top: int = 0) -> dict[str, Profile]:
    """The profile of each recipe."""
    calls = {recipe: program.runner() for recipe, program in programs.items()}
    found = zip(calls.items(), usages(list(calls.values()), steps), strict=True)
    return {
        recipe: profile(programs[recipe], call, usage, steps, top)
        for (recipe, call), usage in found
    }


def profile(
    program: Compiled, call: Callable[[], Any], usage: Usage, steps: int, top: int
) -> Profile:
    """Traces a step that was measured already."""
    module = hlo_text.parse(program.program.as_text())
    of_class = shares(module)
    trace = profile_trace.record(call, steps)
    fastest = sorted(trace.steps, key=lambda step: step.end - step.start)[: _half(steps)]
    trace = dataclasses.replace(trace, steps=tuple(sorted(fastest)))
    found = profile_trace.times(trace, {n: i.opcode for n, i in module.instructions.items()})
    wall, busy = (profile_trace.by_class(t, of_class, OTHER) for t in (found.wall, found.busy))
    longest = sorted(found.wall.items(), key=lambda item: -item[1])
    known = [(name, s) for name, s in longest if name in module.instructions]
    return Profile(
        usage=usage,
        traced=statistics.mean((step.end - step.start) / 1e9 for step in trace.steps),
        wall=wall,
        cores={name: busy[name] / seconds for name, seconds in wall.items() if seconds},
        mixed=sum(s for name, s in known if len(of_class.get(name, ())) > 1),
        unknown=sum(s for name, s in longest if name not in of_class and name != BETWEEN),
        temporary=program.temporary,
        top=[
            (s, found.busy[name] / s, name, module.instructions[name].op_name)
            for name, s in known[:top]
        ],
    )


def record(found: Profile) -> dict[str, Any]:
    """A profile as JSON."""
    return dataclasses.asdict(found) | {"usage": found.usage._asdict(), "idle": found.idle}
