"""Every kernel lowers for GPUs on plain CPU wheels, and compiles for five of them without spills.

Nothing is executed. The second half needs JAX's CUDA plugin and skips without it; how many
instructions a weight costs is part of what is tested, since that is what the kernel is for.
"""

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from fp4jax import kernels
from fp4jax.kernels import backend
from fp4jax.kernels.block_scaled_matmul import base, cudnn, tiles
from fp4jax.kernels.block_scaled_matmul.arg_specs import shapes
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from tests import compile_only

KERNEL = "fp4_scaled_matmul"
TILES = fp4.TensorSpec(block=(16, 16))

#: SASS instructions per weight that the inner loop may take at (m, 8192) @ (8192, 8192).
MOST_INSTRUCTIONS = {16: 5.0, 32: 5.5, 64: 7.0, 128: 7.0}


def by_pallas(a, b):
    return kernels.scaled_matmul(a, b, implementation="pallas")


def per_weight(target, m, k, n, report):
    """Instructions of the inner loop for each weight that it decodes; of all of a warp's lanes."""
    with compile_only.abstract_mesh(target):
        capability, cores = backend.compute_capability(), backend.cores()
    tile = tiles.choose_tile(m, n, k, capability=capability, cores=cores)
    return report.loop * tile.warps * 32 / (tile.n * tile.k)


@pytest.mark.parametrize("target", compile_only.targets())
def test_backend_knows_the_target(target):
    with compile_only.abstract_mesh(target):
        assert backend.compute_capability() == compile_only.capability(target)
        assert backend.supported()
        assert target in backend.device_name()


@pytest.mark.parametrize(
    ("m", "k", "n", "options"),
    [
        (16, 8192, 8192, {}),
        (1, 192, 576, {"a": jnp.float32}),
        (100, 70, 33, {"spec": TILES}),
        (40, 448, 448, {"a": fp4.TensorSpec()}),
    ],
)
def test_lowers_on_plain_wheels(m, k, n, options):
    text = compile_only.lowers_to_cuda(by_pallas, *shapes(m, k, n, **options))
    assert text.count(compile_only.TRITON) == 1
    assert KERNEL in text


def test_lowers_under_vmap_and_grad():
    a, b = shapes(16, 64, 64)
    stack = jax.tree.map(lambda s: jax.ShapeDtypeStruct((3, *s.shape), s.dtype), (a, b))
    text = compile_only.lowers_to_cuda(jax.vmap(by_pallas), *stack)
    assert text.count(compile_only.TRITON) == 1
    loss = lambda a, b: by_pallas(a, b).astype(jnp.float32).sum()  # noqa: E731
    text = compile_only.lowers_to_cuda(jax.value_and_grad(loss), a, b)
    assert text.count(compile_only.TRITON) == 1


def test_auto_lowers_to_what_it_says():
    for m, launches in ((16, 1), (256, 0)):
        a, b = shapes(m, 192, 576)
        text = compile_only.lowers_to_cuda(kernels.scaled_matmul, a, b)
        assert text.count(compile_only.TRITON) == launches
        with compile_only.abstract_mesh():
            assert kernels.explain(a, b).startswith("pallas" if launches else "reference")


@pytest.mark.parametrize("target", compile_only.targets())
@pytest.mark.parametrize("m", [16, pytest.param(128, marks=pytest.mark.slow)])
def test_compiles_without_spills(target, m):
    report = compile_only.compile_for(target, by_pallas, *shapes(m, 8192, 8192), kernel=KERNEL)
    assert report.spills == 0
    assert report.registers < 255
    assert per_weight(target, m, 8192, 8192, report) <= MOST_INSTRUCTIONS[m]
    # Packed bytes come by asynchronous copies, and are decoded between memory and tensor core.
    (kernel,) = report.kernels.values()
    assert "LDGSTS" in kernel.sass
    assert "HMUL2.BF16" in kernel.sass or "HFMA2.BF16" in kernel.sass


@pytest.mark.slow
@pytest.mark.parametrize("target", compile_only.targets())
@pytest.mark.parametrize(
    ("m", "k", "n", "options"),
    [
        (32, 8192, 8192, {}),
        (64, 8192, 8192, {}),
        (16, 8192, 8192, {"spec": TILES}),
        (16, 8192, 8192, {"a": fp4.TensorSpec()}),
        (5, 8192, 8192, {"a": jnp.float32}),
        (16, 192, 576, {}),
        (100, 448, 1344, {}),
        (128, 896, 448, {"spec": TILES}),
        (5, 70, 33, {}),
        (128, 208, 100, {"spec": TILES}),
        (40, 32, 1, {}),
    ],
)
def test_all_tiles_compile_without_spills(target, m, k, n, options):
    report = compile_only.compile_for(target, by_pallas, *shapes(m, k, n, **options), kernel=KERNEL)
    assert report.spills == 0
    if (k, n) == (8192, 8192) and "a" not in options:
        assert per_weight(target, m, k, n, report) <= MOST_INSTRUCTIONS[m]


def test_decoding_is_one_pass():
    """Of XLA: reads 0.56 bytes and writes 2 for each weight."""
    _, b = shapes(1, 8192, 8192)
    report = compile_only.compile_for("H200", base.decoded_rows, b)
    assert len(report.kernels) == 1


@pytest.mark.parametrize("target", ["B200", "RTX PRO 6000", "Thor"])
def test_blackwell_gets_cudnn_s_product(target):
    a, b = shapes(128, 256, 256, a=fp4.TensorSpec())

    def product(a, b):
        return cudnn.product(*(Packed(q.codes, q.block_scales) for q in (a, b)))

    assert "__cudnn$blockScaledDot" in compile_only.optimized(target, product, a, b)
