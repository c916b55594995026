"""Where a study is executed, as options of the command line."""

import os
from typing import Any

import jax
import pytest

from fp4jax.cli.engine_options import EngineOptions, prepare
from fp4jax.study.engines import Local, RayEngine


def test_engines_of_options():
    assert EngineOptions().made() == Local(wait=None)
    assert EngineOptions(worker=True).made() == Local(wait=120.0)
    options = {"address": "auto", "gpus_per_run": 0.5, "cpus_per_run": 2.0}
    assert EngineOptions(engine="ray", **options).made() == RayEngine(**options, prepare=prepare)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "auto"}, "address is for Ray; give --engine ray"),
        ({"worker": True, "engine": "ray"}, "leave --engine out"),
        ({"engine": "absent"}, "no engine 'absent'; known names: local, ray"),
        ({"engine": "ray", "gpus_per_run": 1.5}, "gpus_per_run is 1.5"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options).made()


@pytest.fixture
def platforms(monkeypatch):
    """Sets where JAX is to compute."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    known: Any = jax.config
    before = known.jax_platforms
    yield lambda names: jax.config.update("jax_platforms", names)
    jax.config.update("jax_platforms", before)


def test_a_process_sees_one_gpu(platforms):
    platforms("cpu")
    EngineOptions().see_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    EngineOptions(gpu=1).see_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    for wrong in (EngineOptions(gpu=-1), EngineOptions(gpu=0, engine="ray")):
        with pytest.raises(ValueError, match="Ray chooses"):
            wrong.see_gpu()


def test_a_gpu_that_is_not_there(platforms, monkeypatch):
    platforms(None)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(ValueError, match="gpu is 7, but JAX finds no such GPU here"):
        EngineOptions(gpu=7).see_gpu()
