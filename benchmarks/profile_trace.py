"""A traced run on CPU: which instruction of the program ran when, and which threads worked.

``jax.profiler`` writes what XLA:CPU's executor notes: an event for every instruction ("thunk") on
the thread that began it, "end: <instruction>" where an asynchronous one is done, the tasks of the
pool of threads, and the annotations of :func:`annotated` around the steps.
"""

import dataclasses
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.hlo_classes import CONTAINERS

STEP = "benchmark_step"
#: Time of a step in which no instruction runs.
BETWEEN = "between instructions"
_POOL, _BEGIN, _END = (
    "tf_XLAEigen",
    "ThreadpoolListener::StartRegion",
    "ThreadpoolListener::StopRegion",
)
_EXECUTE = "ThunkExecutor::Execute"


class Span(NamedTuple):
    """From ``start`` to ``end``, in nanoseconds; ``name`` of an instruction, or of a thread."""

    start: float
    end: float
    name: str


@dataclasses.dataclass(frozen=True)
class Trace:
    """What ran in the traced steps: the steps themselves, instructions, and working threads."""

    steps: tuple[Span, ...]
    instructions: tuple[Span, ...]
    threads: tuple[Span, ...]


def record(call: Callable[[], Any], steps: int) -> Trace:
    """Traces some calls of a compiled program.

    Raises:
        RuntimeError: if the trace has no instructions, as on another device than the CPU.
    """
    options = jax.profiler.ProfileOptions()
    # Python's own calls would be most of the events.
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(steps):
                with jax.profiler.TraceAnnotation(STEP):
                    jax.block_until_ready(call())
        (file,) = Path(folder).glob("**/*.xplane.pb")
        trace = read(jax.profiler.ProfileData.from_file(str(file)))
    if len(trace.steps) != steps or not trace.instructions:
        raise RuntimeError(
            f"the trace has {len(trace.steps)} of {steps} steps and {len(trace.instructions)} "
            "instructions; profiles are read of XLA:CPU alone (JAX_PLATFORMS=cpu)."
        )
    return trace


def read(profile: Any) -> Trace:
    """The trace of a ``jax.profiler.ProfileData``, or of what has its planes, lines and events."""
    steps, instructions, threads = [], [], []
    began: dict[Any, Span] = {}
    done: dict[Any, float] = {}
    for plane in profile.planes:
        for line in plane.lines:
            depth, begin = 0, 0.0
            for event in sorted(line.events, key=lambda e: e.start_ns):
                start, name = event.start_ns, event.name
                if name == STEP:
                    steps.append(Span(start, start + event.duration_ns, name))
                elif name in (_BEGIN, _END):
                    begin = start if not depth else begin
                    depth = max(depth + (1 if name == _BEGIN else -1), 0)
                    if not depth and line.name.startswith(_POOL):
                        threads.append(Span(begin, start, line.name))
                elif name.startswith("end: "):
                    done[dict(event.stats).get("_c")] = start
                elif name == _EXECUTE or "hlo_op" in (stats := dict(event.stats)):
                    span = Span(start, start + event.duration_ns, name)
                    if not line.name.startswith(_POOL):
                        threads.append(span._replace(name=line.name))
                    if name != _EXECUTE:
                        began[stats.get("_p")] = span._replace(name=str(stats["hlo_op"]))
    for key, span in began.items():
        instructions.append(span._replace(end=max(span.end, done.get(key, 0))))
    return Trace(tuple(sorted(steps)), tuple(sorted(instructions)), tuple(sorted(threads)))


@dataclasses.dataclass(frozen=True)
class Times:
    """Of one step, the mean of those traced, by instruction; seconds.

    ``wall`` adds up to the time of the step: instructions that run at the same time share it, and
    what none of them takes is :data:`BETWEEN`. ``busy`` has what threads worked meanwhile.
    """

    wall: Mapping[str, float]
    busy: Mapping[str, float]


def times(trace: Trace, opcodes: Mapping[str, str]) -> Times:
    """Shares each moment of the steps among the instructions that run in it.

    ``opcodes``, by instruction, tell those that only run others: they get what no other takes.
    """
    wall: defaultdict[str, float] = defaultdict(float)
    busy: defaultdict[str, float] = defaultdict(float)
    for span, running, working in _moments(trace):
        leaves = [name for name in running if opcodes.get(name) not in CONTAINERS]
        names = leaves or list(running) or [BETWEEN]
        for name in names:
            wall[name] += span / len(names)
            busy[name] += span * working / len(names)
    seconds = 1e9 * max(len(trace.steps), 1)
    return Times(*({name: t / seconds for name, t in found.items()} for found in (wall, busy)))


def _moments(trace: Trace) -> Iterator[tuple[float, Sequence[str], int]]:
    """(nanoseconds, instructions that run, threads that work), from each change to the next."""
    changes = sorted(
        [
            (time, kind, by, span.name)
            for kind, spans in enumerate((trace.steps, trace.instructions, trace.threads))
            for span in spans
            for time, by in ((span.start, 1), (span.end, -1))
        ],
        key=lambda change: change[:1],
    )
    active: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
    before = 0.0
    for time, kind, by, name in changes:
        if active[0] and time > before:
            yield time - before, list(active[1]), len(active[2])
        before = time
        active[kind][name] += by
        if not active[kind][name]:
            del active[kind][name]


def by_class(
    found: Mapping[str, float], shares: Mapping[str, Mapping[str, float]], unknown: str
) -> dict[str, float]:
    """Seconds of instructions as seconds of classes; ``unknown`` gets those without shares."""
    total: defaultdict[str, float] = defaultdict(float)
    for name, seconds in found.items():
        parts = {BETWEEN: 1.0} if name == BETWEEN else shares.get(name, {unknown: 1.0})
        for part, share in parts.items():
            total[part] += seconds * share
    return dict(total)
