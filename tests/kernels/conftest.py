"""A CPU that passes for a GPU, for tests of who quantizes there."""

import functools

import jax
import pytest

from fp4jax.kernels import backend, placement
from fp4jax.kernels.fused_quantizer import dispatch, fused, pallas_triton


@pytest.fixture
def gpu(monkeypatch):
    """A CPU that passes for a GPU, where kernels are interpreted."""
    for name in ("packed", "operand", "fake", "tensor_amax"):
        kernel = functools.partial(getattr(fused, name), interpret=True)
        monkeypatch.setattr(fused, name, kernel)
    monkeypatch.setattr(backend, "supported", lambda: True)
    monkeypatch.setattr(backend, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(backend, "local_capability", lambda: (9, 0))
    choose = lambda *args, default, cuda=None, cpu=None: (cuda or default)(*args)  # noqa: E731
    monkeypatch.setattr(placement.lax, "platform_dependent", choose)
    dispatch.switch(True)
    yield
    dispatch.switch(True)
    jax.clear_caches()  # the choice is made when tracing


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture
def unchecked(monkeypatch):
    """Kernels that need not prove themselves."""
    monkeypatch.setattr(dispatch, "_objection", lambda *args: None)


@pytest.fixture
def launched(monkeypatch):
    """The specs of the quantizing kernels that are traced."""
    specs = []
    run = pallas_triton.quantize
    monkeypatch.setattr(
        pallas_triton, "quantize", lambda *args: specs.append(args[3].spec) or run(*args)
    )
    return specs
