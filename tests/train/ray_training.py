"""python -m tests.train.ray_training OUT KIND killed|node|terminated: a training on a Ray cluster.

Of a head, which trains nothing, and two nodes of one core each. KIND is a key of
``tests.train.several.KINDS``. ``killed``: the second process kills itself at a step, and the
command is repeated. ``node``: a node is lost in mid-run, and another one comes. ``terminated``: the
command is sent SIGTERM. Prints a line of JSON.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks import simulated_cluster
from fp4jax.train import Devices, LostProcessError, RayHosts, RunFolder, Terminated
from tests.study.ray_study import prepare
from tests.train import several


@dataclasses.dataclass(frozen=True)
class Training:
    """Of a kind; the second process kills itself at a step, if one is given; steps may last."""

    kind: str
    out: Path
    step: int | None = None
    seconds: float = 0.0

    def __call__(self, devices: Devices) -> list[str]:
        if self.step is not None and not devices.first:
            several.die_at(self.step)
        if self.seconds:
            several.wait_at_each_step(self.seconds)
        several.alone(self.kind, self.out, devices)
        # Who took part, and that they can talk when all is done.
        return [f"{process}" for process in devices.all(os.getpid())]


def wait_until_begun(out: Path) -> None:
    """Until the first epoch of the run is over."""
    while not any(RunFolder(path).history() for path in out.glob("[!.]*")):
        time.sleep(0.05)


def terminate_when_begun(out: Path) -> None:
    """SIGTERM to this process, from a thread."""
    wait_until_begun(out)
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted(what: str, hosts: RayHosts, training: Training) -> dict:
    """Goes on until something has happened; what there is to check."""
    if what == "killed":
        try:
            once = dataclasses.replace(hosts, retries=0)
            once(dataclasses.replace(training, step=6))
        except LostProcessError as error:
            return {"lost": str(error)}
    else:
        thread = threading.Thread(target=terminate_when_begun, args=(training.out,), daemon=True)
        thread.start()
        try:
            hosts(dataclasses.replace(training, seconds=4.0))
        except Terminated:
            (path,) = training.out.glob("[!.]*")
            return {"terminated": str(RunFolder(path).status())}
    return {}


def main(out: Path, kind: str, what: str) -> None:
    training = Training(kind, out)
    with simulated_cluster.cluster(nodes=2) as (cluster, nodes):
        hosts = RayHosts(address=cluster.address, heartbeat=30, prepare=prepare)

        def lose_a_node(over) -> None:
            wait_until_begun(out)
            simulated_cluster.replace(cluster, nodes[0])

        if what == "node":
            seen: dict = {}
            processes = simulated_cluster.while_changing(lambda: hosts(training), lose_a_node)
        else:
            seen = interrupted(what, hosts, training)
            processes = hosts(training)
    print(json.dumps({**seen, "processes": processes}), flush=True)
    # Ray's own bookkeeping of a lost node fails at a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
