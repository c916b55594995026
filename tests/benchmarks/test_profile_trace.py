"""Traces: what events say, how moments are shared, that all adds up to the steps."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import profile_trace
from benchmarks.profile_trace import BETWEEN, STEP, Span, Trace

POOL = "tf_XLAEigen/1"
BEGIN, END = "ThreadpoolListener::StartRegion", "ThreadpoolListener::StopRegion"


def event(name, start, duration=0.0, **stats):
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=stats.items())


def test_events_become_spans():
    """An asynchronous instruction lasts until it is done; regions within regions are one."""
    main = [
        event(STEP, 0.0, 100.0),
        event("ThunkExecutor::Execute", 5.0, 50.0),
        event("dot.1", 10.0, 5.0, hlo_op="dot.1", _p=7),
        event("ThunkExecutor::Execute (wait for completion)", 60.0, 30.0),
    ]
    pool = [
        event(BEGIN, 20.0),
        event(BEGIN, 22.0),
        event(END, 25.0),
        event("add.1", 26.0, 4.0, hlo_op="add.1", _p=8),
        event("end: add.1", 30.0, 0.1, _c=8),
        event(END, 40.0),
        event("end: dot.1", 70.0, 0.1, _c=7),
    ]
    lines = [SimpleNamespace(name=n, events=e) for n, e in (("python", main), (POOL, pool))]
    trace = profile_trace.read(SimpleNamespace(planes=[SimpleNamespace(lines=lines)]))
    assert trace.steps == (Span(0, 100, STEP),)
    assert trace.instructions == (Span(10, 70, "dot.1"), Span(26, 30, "add.1"))
    assert Span(20, 40, POOL) in trace.threads
    assert {span.name for span in trace.threads} == {"python", POOL}


def test_moments_are_shared():
    """Instructions at once share a moment; one that runs others gets what these leave."""
    trace = Trace(
        steps=(Span(0, 100, STEP), Span(200, 300, STEP)),
        instructions=(
            Span(10, 30, "a"),
            Span(20, 40, "b"),
            Span(150, 160, "a"),  # in no step
            Span(210, 290, "loop"),
            Span(220, 260, "a"),
        ),
        threads=(Span(10, 40, "1"), Span(20, 30, "2"), Span(205, 300, "1")),
    )
    found = profile_trace.times(trace, {"loop": "while", "a": "add"})
    nanoseconds = {name: seconds * 2e9 for name, seconds in found.wall.items()}
    assert nanoseconds == pytest.approx({BETWEEN: 70 + 20, "a": 15 + 40, "b": 15, "loop": 40})
    busy = {name: seconds * 2e9 for name, seconds in found.busy.items()}
    assert busy == pytest.approx({BETWEEN: 15, "a": 20 + 40, "b": 20, "loop": 40})


def test_classes_add_up():
    shares = {"a": {"x": 0.25, "y": 0.75}, "b": {"x": 1.0}}
    found = profile_trace.by_class({"a": 4.0, "b": 1.0, "c": 2.0, BETWEEN: 3.0}, shares, "other")
    assert found == {"x": 2.0, "y": 3.0, "other": 2.0, BETWEEN: 3.0}


def test_a_program_is_traced():
    """What this JAX and XLA write: all of the time of two steps is found again."""
    x = jnp.ones((256, 256))
    program = jax.jit(lambda x: jnp.sin(x @ x)).lower(x).compile()
    program(x).block_until_ready()
    trace = profile_trace.record(lambda: program(x), steps=2)
    found = profile_trace.times(trace, {})
    traced = sum(step.end - step.start for step in trace.steps) / 2e9
    assert sum(found.wall.values()) == pytest.approx(traced)
    assert len(found.wall) > 1
    text = program.as_text()
    assert text is not None
    assert all(f"%{name} = " in text for name in found.wall if name != BETWEEN)


def test_nothing_traced():
    with pytest.raises(RuntimeError, match="0 instructions"):
        profile_trace.record(lambda: None, steps=1)
