"""What the runs of a report were made with: versions, machines, dates, commands."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

RESEARCH = "For research only, not a medical device."


def made_with(runs: "Sequence[RunResult]") -> dict[str, Any]:
    """From the environments of runs; each value once, empty for folders of version 0.1.

    Returns:
        name -> what it was, of several runs joined: versions, processor, device, dates (first to
        last) and commands.
    """
    known = [run.environment for run in runs if run.environment]
    if not known:
        return {}
    dates = [one["date"] for one in known]
    return {
        "fp4jax": _each(one["fp4jax"] for one in known),
        "source": _each(map(_source, known)),
        "version of the numerics": _each(one["numerics"] for one in known),
        "packages": _each(
            ", ".join(f"{name} {version}" for name, version in one["packages"].items())
            for one in known
        ),
        "Python": _each(one["python"] for one in known),
        "processor": _each(one["processor"] for one in known),
        "device": _each(f"{one['device']['kind']} ({one['device']['platform']})" for one in known),
        "dates of the runs": _between(dates),
        "commands": _each(command(one["command"]) for one in known),
    }


def summary(runs: "Sequence[RunResult]") -> str:
    """The same in half a sentence, for a report's first lines."""
    devices = ", ".join(sorted({str(run.summary.get("device")) for run in runs}))
    made = made_with(runs)
    if not made:
        return f"trained on {devices}"
    packages = {
        name: v
        for run in runs
        for name, v in (run.environment or {"packages": {}})["packages"].items()
    }
    dates = made["dates of the runs"]
    return (
        f"trained on {devices} ({made['processor']}) with fp4jax {made['fp4jax']} and jax "
        f"{packages.get('jax')}, {dates}"
    )


def command(words: Sequence[str]) -> str:
    """A command line without the folders of the machine it ran on, to be repeated anywhere.

    ``python -m experiments.VERB`` and ``python -m fp4jax VERB`` are the command ``fp4jax VERB``.

    Example:
        >>> command(["/home/a/experiments/study.py", "demo", "--out", "my runs"])
        "fp4jax study demo --out 'my runs'"
        >>> command(["/usr/bin/fp4jax", "study", "demo"]), command(["/home/a/mine.py"])
        ('fp4jax study demo', 'mine.py')
    """
    if not words:
        return ""
    program = Path(words[0])
    match program.parent.name, program.name:
        case "experiments", name if name.endswith(".py"):
            first = ["fp4jax", program.stem.replace("_", "-")]
        case "fp4jax", "__main__.py":
            first = ["fp4jax"]
        case _, name:
            first = [name]
    return shlex.join([*first, *words[1:]])


def day(date: str) -> str:
    """A date in UTC to the minute.

    Example:
        >>> day("2026-11-28T20:40:14+00:00")
        '2026-11-28 20:40 UTC'
    """
    return f"{date[:16].replace('T', ' ')} UTC"


def _between(dates: Sequence[str]) -> str:
    first, last = day(min(dates)), day(max(dates))
    return first if first == last else f"{first} to {last}"


def _source(environment: dict[str, Any]) -> str:
    found = environment["source"]
    if found is None:
        return "no git checkout"
    return found["revision"][:12] + (" with changes" if found["dirty"] else "")


def _each(values: Any) -> str:
    """Each value once, in order."""
    return "; ".join(dict.fromkeys(str(value) for value in values))
