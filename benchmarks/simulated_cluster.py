"""A Ray cluster on this machine, which loses and gets nodes while something runs on it."""

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """(``ray.cluster_utils.Cluster``, its nodes): of a core each, and a head that runs nothing."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": 0})
    try:
        yield made, [made.add_node(num_cpus=1) for _ in range(nodes)]
    finally:
        made.shutdown()


def replace(made: Any, node: Any) -> Any:
    """A node is lost without grace, and another one comes; for the main thread."""
    made.remove_node(node, allow_graceful=False)
    return made.add_node(num_cpus=1)


def while_changing(run: Callable[[], T], change: Callable[[Callable[[], bool]], None]) -> T:
    """What ``run`` returns, in a thread; Ray starts nodes from the main one only.

    Args:
        run: what goes on meanwhile.
        change: changes nodes; is called with a function that says whether ``run`` is over.
    """
    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = pool.submit(run)
    change(future.done)
    return future.result()
