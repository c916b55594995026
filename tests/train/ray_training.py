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

from fp4jax.train import Devices, LostProcessError, RayHosts, RunFolder, Terminated
from tests.study.ray_study import prepare
from tests.train import several


@dataclasses.dataclass(frozen=True)
class Training:
    """Of a kind; the second process kills itself at a step, if one is given."""

    kind: str
    out: Path
    step: int | None = None

    def __call__(self, devices: Devices) -> list[str]:
        if self.step is not None and not devices.first:
            several.die_at(self.step)
        several.alone(self.kind, self.out, devices)
        # Who took part, and that they can talk when all is done.
        return [f"{process}" for process in devices.all(os.getpid())]


def when_begun(out: Path, then) -> threading.Thread:
    """In a thread, when the first epoch of the run is over."""

    def wait() -> None:
        while not any(RunFolder(path).history() for path in out.glob("[!.]*")):
            time.sleep(0.05)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def main(out: Path, kind: str, what: str) -> None:
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    hosts = RayHosts(address=cluster.address, heartbeat=30, prepare=prepare)
    training, seen = Training(kind, out), {}
    if what == "killed":
        try:
            once = dataclasses.replace(hosts, retries=0)
            once(dataclasses.replace(training, step=6))
        except LostProcessError as error:
            seen["lost"] = str(error)
    elif what == "node":

        def lose() -> None:
            cluster.remove_node(nodes[0], allow_graceful=False)
            cluster.add_node(num_cpus=1)

        when_begun(out, lose)
    elif what == "terminated":
        when_begun(out, lambda: os.kill(os.getpid(), signal.SIGTERM))
        try:
            hosts(training)
        except Terminated:
            (folder,) = out.glob("[!.]*")
            seen["terminated"] = str(RunFolder(folder).status())
    seen["processes"] = hosts(training)
    print(json.dumps(seen), flush=True)
    # Ray's own bookkeeping of a lost node fails at a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
