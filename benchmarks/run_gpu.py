"""All GPU figures of this project in one call: checks of bits, kernels, training, inference.

    python -m benchmarks.run_gpu --out FOLDER [--parts decode matmul] [--minutes 10]

The folder gets a JSON file for each part, written again after every table, and from all of them
report.md (machine, targets, tables) and plots. Each part runs in a process of its own with a share
of the time, so that a crash or a hang ends one part alone; what it had measured is kept. Its
output is in FOLDER/logs.

Exit codes: 0; 1 if a part failed (its traceback is in its JSON file); 2 without an NVIDIA GPU.
``--allow-cpu --tiny`` runs every part with toy sizes on a CPU, to see that it works.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks import gpu_checks, gpu_report, gpu_speed, timing
from benchmarks.gpu_job import Job


@dataclasses.dataclass(frozen=True)
class Part:
    """A function, and its share of the time."""

    run: Callable[[Job], None]
    share: float


#: In this order, and in the report.
PARTS = {
    "machine": Part(gpu_checks.machine, 25),
    "decode": Part(gpu_checks.decode, 40),
    "selfchecks": Part(gpu_checks.selfchecks, 70),
    "matmul": Part(gpu_speed.matmul, 140),
    "quantizer": Part(gpu_speed.quantizer, 80),
    "training": Part(gpu_speed.training, 130),
    "inference": Part(gpu_speed.inference, 60),
    "seeds": Part(gpu_speed.seeds, 55),
}
_NO_GPU = 2
# A part may take so much longer than its time before it is ended: a share of it, or seconds.
_GRACE = (0.3, 10.0)


@dataclasses.dataclass(frozen=True)
class Args:
    """Everything that is to be known about a GPU."""

    # folder for JSON files, report.md and plots; files of the same names are replaced
    out: Path
    # parts to run: machine decode selfchecks matmul quantizer training inference seeds (none: all)
    parts: tuple[str, ...] = ()
    # time for all parts together; what does not fit is left out, and the report says so
    minutes: float = 9.5
    # rounds; each runs every case of a table once
    rounds: int = 9
    # toy sizes
    tiny: bool = False
    # run without a GPU, too
    allow_cpu: bool = False
    # a process for each part
    isolate: bool = True

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ValueError(f"parts has {', '.join(unknown)}; allowed: {', '.join(PARTS)}.")
        if self.rounds < 1 or not self.minutes > 0:
            raise ValueError("rounds must be at least 1, and minutes positive.")
        if self.allow_cpu and not self.tiny:
            raise ValueError("allow_cpu goes with tiny: a CPU takes hours for the real sizes.")

    @property
    def todo(self) -> tuple[str, ...]:
        """The parts to run, in their order."""
        return tuple(name for name in PARTS if name in (self.parts or PARTS))


def main(args: Args) -> int:
    """Runs the parts and returns the exit code."""
    if not args.isolate and (reason := _no_gpu(args)):
        print(reason, file=sys.stderr)
        return _NO_GPU
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    failed = []
    for i, name in enumerate(args.todo):
        shares = [PARTS[later].share for later in args.todo[i:]]
        seconds = max(5.0, end - time.monotonic()) * shares[0] / sum(shares)
        if args.isolate:
            if _in_a_process(args, name, seconds) == _NO_GPU:
                return _NO_GPU
        else:
            Job(name, args.out, args.rounds, args.tiny, seconds).run(PARTS[name].run)
        found = gpu_report.read(args.out / f"{name}.json")
        print(gpu_report.section(found), flush=True)
        if found["status"] != "done":
            failed.append(name)
    gpu_report.write(args.out, list(PARTS))
    print(f"Report: {args.out / 'report.md'}" + (f"; failed: {', '.join(failed)}" * bool(failed)))
    return 1 if failed else 0


def _no_gpu(args: Args) -> str | None:
    """Why nothing is measured, in one line."""
    device = jax.devices()[0]
    if args.allow_cpu or (device.platform == "gpu" and hasattr(device, "compute_capability")):
        return None
    return (
        f"benchmarks.run_gpu needs an NVIDIA GPU, but JAX's device is {device.device_kind!r}; "
        "install jax[cuda13] there, or try it with --allow-cpu --tiny."
    )


def _in_a_process(args: Args, name: str, seconds: float) -> int:
    """Runs one part in a process of its own; one that is ended or crashes is marked as failed."""
    path, log = args.out / f"{name}.json", args.out / "logs" / f"{name}.txt"
    log.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.run_gpu", "--out", str(args.out)]
    command += ["--parts", name, "--no-isolate", "--rounds", str(args.rounds)]
    command += ["--minutes", str(seconds / 60)]
    command += ["--tiny"] * args.tiny + ["--allow-cpu"] * args.allow_cpu
    limit = seconds + max(_GRACE[0] * seconds, _GRACE[1])
    with log.open("w") as output:
        # A session of its own: with the process end those that it started.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            code = process.wait(limit)
            reason = f"its process ended with exit code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            reason = f"ended after {limit:.0f} s"
    lines = log.read_text(errors="replace").strip().splitlines()
    if code == _NO_GPU and not path.exists():
        print(lines[-1] if lines else "benchmarks.run_gpu found no GPU", file=sys.stderr)
        return _NO_GPU
    found = gpu_report.read(path) if path.exists() else gpu_report.nothing(name, args.tiny)
    if found["status"] == "running":
        found |= {"status": "failed", "error": "\n".join([reason, *lines[-40:]])}
        timing.write_json(path, found)
    return code


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Args, description=__doc__)))
