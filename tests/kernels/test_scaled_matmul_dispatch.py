"""Who multiplies, by device, rows and operands; and in which tiles."""

import jax.numpy as jnp
import pytest

from fp4jax import kernels
from fp4jax.kernels import backend
from fp4jax.kernels.block_scaled_matmul import api, base, cudnn, tiles
from fp4jax.kernels.block_scaled_matmul.arg_specs import AWKWARD, shapes
from tests.checks import assert_same_sums
from tests.kernels.operands import ROWS, TILES, A, B, left


@pytest.fixture
def on(monkeypatch):
    """on((9, 0)): traces are for such a GPU; cuDNN passes its test unless told otherwise."""

    def set_device(capability, objection=None):
        monkeypatch.setattr(backend, "compute_capability", lambda: capability)
        monkeypatch.setattr(backend, "device_name", lambda: f"GPU {capability}")
        monkeypatch.setattr(cudnn, "objection", lambda capability: objection)

    return set_device


def chosen(m, k=8192, n=8192, **options):
    left, right = shapes(m, k, n, **options)
    return kernels.explain(left, right)


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0)])
def test_few_rows_go_to_pallas_and_many_to_the_vendor(on, capability):
    on(capability)
    for m in (1, 16, 17, 64, 128):
        assert chosen(m).startswith(f"pallas: {m} rows, decoded on the way")
    assert chosen(129).startswith("reference: 129 rows, more than 128: b is decoded to bfloat16")
    assert "128.0 MiB" in chosen(4096)
    # float32 enters in three parts
    assert chosen(42, a=jnp.float32).startswith("pallas: 126 rows, as float32 enters in three")
    assert chosen(43, a=jnp.float32).startswith("reference: 129 rows, as float32")


def test_shapes_that_no_tile_divides_are_padded_and_it_is_said(on):
    on((9, 0))
    assert "padded" not in chosen(4, 192, 576)
    assert "padded" not in chosen(4, 448, 448, spec=TILES)
    assert "(70, 33) is padded, that is copied, to multiples of (32, 16)" in chosen(4, 70, 33)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0), (11, 0), (12, 0)])
def test_two_qtensors_go_to_cudnn_on_blackwell(on, capability):
    on(capability)
    for m in (1, 4096):
        choice = chosen(m, a=ROWS)
        assert choice.startswith("cudnn") == (capability[0] >= 10), choice
    on(capability, objection="it was wrong")
    for m, other in ((1, "pallas"), (4096, "reference")):
        choice = chosen(m, a=ROWS)
        assert choice.startswith(other)
        assert choice.endswith("(not cuDNN: it was wrong)") == (capability[0] >= 10)


@pytest.mark.parametrize("capability", [None, (7, 5)])
def test_without_a_fitting_gpu(on, capability):
    on(capability)
    assert chosen(1) == f"reference: GPU {capability} is no NVIDIA GPU since Ampere"
    with pytest.raises(ValueError, match="'pallas' needs an NVIDIA GPU since Ampere"):
        kernels.scaled_matmul(A(), B(), implementation="pallas")
    with pytest.raises(ValueError, match="'cudnn' needs two QTensors and a Blackwell GPU"):
        kernels.scaled_matmul(left(4, 32, "quantized")[0], B(), implementation="cudnn")


def test_what_is_asked_for(on):
    on((10, 0))
    q = left(4, 32, "quantized")[0]
    assert kernels.explain(A(), B(), implementation="reference") == "reference: as asked for"
    assert kernels.explain(q, B(), implementation="pallas").startswith("pallas")
    assert kernels.explain(q, B(), implementation="cudnn").startswith("cudnn")
    assert kernels.explain(A(), kernels.decode(B())) == "reference: b is decoded already"
    with pytest.raises(ValueError, match="a is an array and the device is GPU"):
        kernels.explain(A(), B(), implementation="cudnn")
    on((10, 0), objection="it was wrong")
    assert kernels.explain(q, B(), implementation="cudnn").startswith("reference: as cuDNN cannot")


def test_programs_for_a_gpu_run_on_a_cpu(on):
    """A program traced where a GPU is may be placed on a CPU."""
    on((9, 0))
    a = left(4, 32, "float32")[0]
    y = api.scaled_matmul(a, B())
    assert_same_sums(y, base.scaled_matmul(a, B(), jnp.float32))


def test_tiles_fit():
    """Lengths are powers of two, and the parts of k are whole steps."""
    for capability in (None, (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)):
        for m, k, n in (*AWKWARD, (1, 8192, 8192), (128, 8192, 8192), (64, 4096, 28672)):
            tile = tiles.choose_tile(m, n, k, capability=capability, cores=132)
            for length in (tile.m, tile.n, tile.k):
                assert length == backend.next_power_of_two(length) >= 16
            assert tile.k >= 32
            assert tiles.padded(k, tile.k) % (tile.k * tile.split) == 0
