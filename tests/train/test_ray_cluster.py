"""A Ray cluster: what it has, and what is said where that is not enough."""

import logging
import socket

import pytest

from fp4jax.train import RayHosts
from fp4jax.train.ray_cluster import Cluster


class Nodes:
    """A Ray of nodes with these resources."""

    def __init__(self, *resources: dict[str, float]):
        self.resources = resources

    def nodes(self):
        return [{"Alive": True, "Resources": each} for each in self.resources]

    def cluster_resources(self):
        kinds = {kind for each in self.resources for kind in each}
        return {kind: sum(each.get(kind, 0.0) for each in self.resources) for kind in kinds}


def test_a_gpu_each_where_there_are_any():
    assert Cluster(Nodes({"CPU": 2.0}), grows=True).gpus(None) == 0
    gpus = Cluster(Nodes({"CPU": 2.0}, {"CPU": 8.0, "GPU": 4.0}), grows=True)
    assert (gpus.gpus(None), gpus.gpus(0.5), gpus.gpus(0)) == (1, 0.5, 0)
    assert [gpus.nodes(2, n, "run") for n in (0, 1)] == [2, 1]


def test_what_a_machine_does_not_have_is_not_waited_for():
    here = Cluster(Nodes({"CPU": 2.0}), grows=False)
    with pytest.raises(ValueError, match=r"a run needs 4 CPUs and 0 GPUs, .* has 2 and 0; give"):
        here.nodes(4, 0, "run")
    with pytest.raises(ValueError, match=r"gpus_per_process, or the address of a cluster"):
        here.nodes(1, 1, "process")
    with pytest.raises(ValueError, match=r"processes is 3, with 1 CPUs each, and .* has 2; give"):
        RayHosts(processes=3)._size(here)
    assert RayHosts(processes=2)._size(here) == (2, {"CPU": 1.0})


def test_what_a_cluster_does_not_have_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        assert Cluster(Nodes({"CPU": 2.0}), grows=True).nodes(4, 0, "run") == 0
    assert "waiting for one that has" in caplog.text
    # Others may have left the cluster, and come back.
    assert RayHosts(processes=3)._size(Cluster(Nodes({"CPU": 2.0}), grows=True))[0] == 3


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens(scheme):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=f"no Ray cluster at the address {address} .*; give"):
        RayHosts(address=address)(lambda devices: None)
