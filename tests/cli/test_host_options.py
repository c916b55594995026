"""One training on several hosts, as options of the command line."""

import pytest

from fp4jax.cli.host_options import HostOptions


def test_one_device_trains_alone():
    assert HostOptions().run(lambda devices: devices is None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "ray"}, "engine is of several processes; give --distributed with it"),
        ({"processes": 2}, "processes is of several processes"),
        ({"distributed": True, "address": "auto"}, "address is for Ray"),
        ({"distributed": True, "gpus_per_process": 1}, "gpus_per_process is for Ray"),
        ({"distributed": True, "engine": "ray", "process_id": 0}, "leave out --coordinator"),
        ({"distributed": True, "engine": "ray", "gpus_per_process": -1}, "give whole GPUs"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        HostOptions(**options).run(lambda devices: None)
