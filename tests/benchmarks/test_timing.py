"""timing.alternate: turns, and what of them is timed."""

from benchmarks import timing


def test_the_first_call_of_a_turn_is_not_timed(monkeypatch):
    """By a clock that calls move: those that follow on another case take three times as long."""
    calls, clock = [], [0.0]

    def run(name: str, seconds: float) -> timing.Run:
        def call():
            clock[0] += seconds * (1 if calls and calls[-1] == name else 3)
            calls.append(name)

        return timing.Run(name, call)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    first, second = timing.alternate([run("a", 2.0), run("b", 5.0)], rounds=2)
    assert calls == [*"aabbaabb"]
    assert (first.seconds, second.seconds) == ((2.0, 2.0), (5.0, 5.0))
    assert second.ratio == 2.5
