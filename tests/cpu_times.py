"""What each test costs: ``python -m pytest -n 2 -p tests.cpu_times``, for tests/slow_tests.txt.

Prints the dearest tests by CPU seconds, of the process and of its children, which other work on the
machine changes little. With pytest-xdist each process counts its own tests.
"""

import os
import time
from collections.abc import Generator

import pytest

SHOWN = 200


def spent() -> float:
    """CPU seconds of this process, all its threads, and of the children that it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator:
    report = yield
    if call.when == "setup":
        item.stash[BEGAN] = getattr(item.session, "cpu_spent", 0.0)
    item.session.cpu_spent = spent()  # pyright: ignore[reportAttributeAccessIssue]
    if call.when == "teardown":
        report.cpu_seconds = spent() - item.stash[BEGAN]
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    session.cpu_spent = spent()  # pyright: ignore[reportAttributeAccessIssue]


BEGAN = pytest.StashKey[float]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if hasattr(terminalreporter.config, "workerinput"):
        return
    costs = [
        (report.cpu_seconds, report.nodeid)
        for reports in terminalreporter.stats.values()
        for report in reports
        if hasattr(report, "cpu_seconds")
    ]
    terminalreporter.section(f"CPU seconds of tests, {sum(cost for cost, _ in costs):.0f} in all")
    for cost, name in sorted(costs, reverse=True)[:SHOWN]:
        terminalreporter.write_line(f"{cost:6.1f} {name}")
