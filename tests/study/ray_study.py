"""python -m tests.study.ray_study OUT KIND cluster|ray|gpu|local: a small study there.

KIND is short, fabricated or real.

``cluster``: of a head, which trains nothing, and two nodes of one core each. Once runs are under
way on both, one node goes without grace, and another one comes. ``ray``: on one that the engine
starts. ``gpu``: on one that believes in a GPU, two processes to it. Prints a line of JSON.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import fabricated_training, simulated_cluster
from fp4jax.cli import compilation_cache
from fp4jax.study import Engine, Study, engine, execute
from fp4jax.train import train_together
from fp4jax.train.folder import RunFolder
from tests import blobs


def prepare() -> None:
    """As in small_study.py, whose summaries must be the same."""
    compilation_cache.use(Path(sys.prefix) / "jax-cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class Shared:
    """Trains where the data lie in the object store, which nobody writes to."""

    def __init__(self, train):
        self.train = train

    def __call__(self, part, data, root, **options):
        images: np.ndarray = data.cohort.images
        if images.flags.writeable or images.flags.owndata:
            raise RuntimeError("this process has a copy of the cohort.")
        self.train(part, data, root, **options)


def fabricated() -> tuple[Study, Any, Any]:
    """Six runs of two seconds, of which two distil what others trained."""
    task = fabricated_training.task()
    methods, recipes = ("qat", "qad"), ("baseline", "2d+rht+sr")
    study = Study(task, archs=("cnn",), recipes=recipes, methods=methods, seeds=(1, 2), epochs=8)
    return study, fabricated_training.cohort(), fabricated_training.Times(0.2)


def short() -> tuple[Study, Any, Any]:
    """A baseline, a run of a recipe, and a student."""
    study, data, _ = fabricated()
    return dataclasses.replace(study, seeds=(1,), epochs=2), data, fabricated_training.Times(0.05)


def real() -> tuple[Study, Any, Any]:
    """That of small_study.py, and students."""
    config = blobs.config()
    study = Study(
        config.data,
        archs=("cnn",),
        recipes=("baseline", "2d+rht+sr"),
        methods=("qat", "qad", "ptq"),
        seeds=(1, 2),
        epochs=30,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        model_options=config.model_options,
    )
    return study, blobs.cohort(), train_together


@contextlib.contextmanager
def believing_in_a_gpu() -> Iterator[Engine]:
    """An engine with half of a GPU for a run, which Ray takes for granted."""
    import ray

    ray.init(address="local", num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        yield engine("ray", gpus_per_run=0.5, prepare=prepare)
    finally:
        ray.shutdown()


def begun(runs: Path) -> dict[str, int]:
    """Epochs of the runs that are running and have finished one."""
    folders = [RunFolder(path) for path in runs.glob("[!.]*")]
    statuses = [(folder.path.name, folder.status()) for folder in folders]
    return {n: s.epoch for n, s in statuses if s.state == "running" and s.epoch > 0}


def on_a_cluster(study, data, out: Path, train) -> dict:
    """Executes the study while a node is lost; what there is to check beside its runs."""
    seen: dict = {}
    with simulated_cluster.cluster(nodes=2) as (cluster, nodes):
        own = engine("ray", address=cluster.address, prepare=prepare)

        def run() -> None:
            execute(study, data, out, engine=own, saving=blobs.OFTEN.saving, train=Shared(train))

        def lose_a_node(over: Callable[[], bool]) -> None:
            while len(running := begun(out / "runs")) < 2 and not over():
                time.sleep(0.05)
            simulated_cluster.replace(cluster, nodes[0])
            seen["running"] = running
            seen["nodes"] = len(cluster.list_all_nodes())

        simulated_cluster.while_changing(run, lose_a_node)
    return seen


def main(out: Path, kind: str = "fabricated", where: str = "cluster") -> None:
    study, data, train = {"short": short, "fabricated": fabricated, "real": real}[kind]()
    seen: dict = {}
    if where == "cluster":
        seen = on_a_cluster(study, data, out, train)
    elif where == "ray":
        own = engine("ray", prepare=prepare)
        execute(study, data, out, engine=own, saving=blobs.OFTEN.saving, train=Shared(train))
    elif where == "gpu":
        with believing_in_a_gpu() as own:
            execute(study, data, out, engine=own, saving=blobs.OFTEN.saving, train=Shared(train))
    # The driver needs no device of its own, whose memory the tasks are to have.
    seen["driver_has_devices"] = jax._src.xla_bridge.backends_are_initialized()  # pyright: ignore
    ray = sys.modules.get("ray")
    seen["ray_is_left"] = ray is not None and ray.is_initialized()
    prepare()
    if kind == "short":
        execute(study, data, out.parent / "local", train=train)
    outcome = execute(study, data, out, saving=blobs.OFTEN.saving, train=train)
    seen |= {"finished": len(outcome.folders), "trained": outcome.trained}
    print(json.dumps(seen | {"failures": outcome.failures}), flush=True)
    # Ray's own bookkeeping of the lost node fails at a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
