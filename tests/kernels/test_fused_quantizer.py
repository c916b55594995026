"""The fused quantizer against jnp, byte for byte, in interpret mode; lowered and compiled for GPUs.

On CPU XLA chooses the order in which jnp's rotation sums 16 numbers. Rotations are compared on
arrays whose sums are exact, and on general numbers in the order that jnp has on GPUs.
"""

import functools
import operator
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fp4jax as fp4
from fp4jax import TensorSpec
from fp4jax.core import hadamard
from fp4jax.core.blocks import normalize_axes
from fp4jax.core.quantizer import _fake_quantize, _quantize
from fp4jax.kernels import backend
from fp4jax.kernels.fused_quantizer import (
    arithmetic,
    dispatch,
    explain_quantize,
    fake_quantize,
    fused,
    pallas_triton,
    quantize,
    selfcheck,
    switch,
)
from fp4jax.kernels.fused_quantizer.arg_specs import BENCHMARKS, HADAMARD_STOCHASTIC, SPECS
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan
from fp4jax.ops import gemm
from tests import compile_only
from tests.core.test_golden import FILES, MODES, compare

KEY = jax.random.key(3)
PALLAS = {"implementation": "pallas", "interpret": True}


def data(kind: str, shape: tuple[int, ...], axis: int = -1) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == "exact sums":
        x = rng.integers(-255, 256, shape).astype(np.float32)
    elif kind == "wide":
        x *= 2.0 ** rng.integers(-30, 1, shape).astype(np.float32)
    elif kind == "zeros":
        x[:] = -0.0
    elif kind in ("nan", "inf"):
        x.flat[3] = float(kind)
    else:
        x *= np.float32({"normal": 1, "tiny": 1e-36, "subnormal": 1e-38, "huge": 2.0**125}[kind])
    return np.clip(x, -3e38, 3e38) if kind == "huge" else x


KINDS = ("normal", "exact sums", "wide", "zeros", "nan", "inf", "tiny", "subnormal", "huge")


def assert_same(got, expected, what=""):
    """Every byte of every leaf; NaN may be any NaN."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), what
        unsigned = np.dtype(f"u{a.dtype.itemsize}")
        nan = np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
        if a.dtype.itemsize == 1:
            nan[...] = False  # scale bytes
        np.testing.assert_array_equal(
            np.where(nan, 0, a.view(unsigned)), np.where(nan, 0, b.view(unsigned)), what
        )


def reference(result, spec, axis, x, key):
    if result == "packed":
        return fp4.quantize(x, spec, axis, key)
    if result == "fake":
        return fp4.fake_quantize(x, spec, axis, key)
    axes = normalize_axes(axis, spec.block, x.ndim)
    return gemm.operand(x, spec, gemm.BlockAxes(axes[0], axes), key).values


def kernel(result, spec, axis, x, key):
    if result != "operand":
        function = quantize if result == "packed" else fake_quantize
        return function(x, spec, axis, key, **PALLAS)
    axes = normalize_axes(axis, spec.block, x.ndim)
    values, _ = fused.operand(x, key, None, Plan(spec, result, interpret=True), axes)
    return values.astype(jnp.float32)


@pytest.fixture
def fixed_order(monkeypatch):
    """Rotations of jnp as on GPUs."""
    traced = (_quantize, _fake_quantize)
    monkeypatch.setattr(hadamard, "fixed_order", lambda: True)
    for function in traced:
        function.clear_cache()
    yield
    for function in traced:
        function.clear_cache()


# rows, columns in fours, other columns; every spec, dtype, result and kind of padding
CASES = [
    ("packed", "nearest", (7, 33), -1, "float32"),
    ("operand", "nearest", (3, 20, 18), 1, "bfloat16"),
    ("fake", "nearest", (33, 8), 0, "float16"),
    ("packed", "stochastic", (33, 8), 0, "float32"),
    ("operand", "stochastic", (5, 48), -1, "bfloat16"),
    ("fake", "stochastic", (40, 5), 0, "float16"),
    ("packed", "stochastic_unbiased", (7, 33), -1, "bfloat16"),
    ("fake", "stochastic_unbiased", (33, 8), 0, "float32"),
    ("operand", "hadamard", (7, 33), -1, "bfloat16"),
    ("fake", "hadamard", (7, 33), -1, "float32"),
    ("packed", "hadamard+stochastic", (2, 33, 8), 1, "float32"),
    ("operand", "hadamard+stochastic_unbiased", (2, 32), -1, "float32"),
    ("packed", "16x16", (18, 2, 33), (2, 0), "float32"),
    ("packed", "16x16", (40, 24), (1, 0), "bfloat16"),
    ("operand", "16x16 stochastic", (2, 20, 24), (1, 2), "float32"),
    ("fake", "16x16 stochastic_unbiased", (20, 24), (0, 1), "bfloat16"),
]


def compare_bytes(result, spec, shape, axis, dtype):
    ours, jnps = (jax.jit(functools.partial(f, result, spec, axis)) for f in (kernel, reference))
    for kind in KINDS:
        if spec.hadamard and kind in ("tiny", "subnormal"):
            continue  # a quarter of these is flushed to zero here, on CPU, in one path or both
        x = jnp.asarray(data(kind, shape)).astype(dtype)
        key = KEY if spec.stochastic else None
        assert_same(ours(x, key), jnps(x, key), kind)


@pytest.mark.parametrize(("result", "name", "shape", "axis", "dtype"), CASES)
@pytest.mark.usefixtures("fixed_order")
def test_same_bytes(result, name, shape, axis, dtype):
    compare_bytes(result, SPECS[name], shape, axis, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.usefixtures("fixed_order")
def test_same_bytes_always(name):
    """Every result, dtype and way of loading; more than one program along each axis."""
    spec = SPECS[name]
    for shape, axis in (((1030, 33), 1), ((35, 548), 0), ((50, 257), 0)):
        axis = axis if spec.block == (1, 16) else (axis, 1 - axis)
        for dtype in ("float32", "bfloat16"):
            for result in ("packed", "operand", "fake"):
                compare_bytes(result, spec, shape, axis, dtype)


@pytest.mark.parametrize(("shape", "axis"), [((3, 33), -1), ((48, 6), 0)])
def test_rotation_of_jnp_where_sums_are_exact(shape, axis):
    x = jnp.asarray(data("exact sums", shape))
    expected = jax.jit(lambda x: fp4.quantize(x, HADAMARD_STOCHASTIC, axis, KEY))(x)
    assert_same(quantize(x, HADAMARD_STOCHASTIC, axis, KEY, **PALLAS), expected)


@settings(max_examples=6)
@given(
    shape=st.lists(st.integers(1, 35), min_size=1, max_size=3).map(tuple),
    data_=st.data(),
)
def test_any_shape(shape, data_):
    specs = [s for s in SPECS.values() if not s.hadamard and (len(shape) > 1 or s.block[0] == 1)]
    spec = data_.draw(st.sampled_from(specs))
    axes = data_.draw(st.permutations(range(len(shape))))
    axis = axes[0] if spec.block == (1, 16) else (axes[0], axes[1])
    dtype = data_.draw(st.sampled_from(["float32", "bfloat16"]))
    x = jnp.asarray(data("wide", shape)).astype(dtype)
    if dispatch.obstacle(shape, spec, normalize_axes(axis, spec.block, x.ndim)):
        with pytest.raises(ValueError, match="random bits belong to positions"):
            quantize(x, spec, axis, KEY, **PALLAS)
        return
    got = jax.jit(lambda x: quantize(x, spec, axis, KEY, **PALLAS))(x)
    assert_same(got, jax.jit(lambda x: fp4.quantize(x, spec, axis, KEY))(x))


@pytest.mark.parametrize("mode", ["1d", "2d", "1d_rht"])
def test_golden(golden, mode):
    """TransformerEngine's bits, of 64 columns in bfloat16 (one compilation)."""

    @functools.cache
    def function(spec, axis):
        def compute(x):
            q = quantize(x, spec, axis, **PALLAS)
            return q.codes, q.unpacked_codes(), q.block_scales, q.amax, q.dequantize()

        return jax.jit(compute)

    file = golden(FILES[0])
    side = "col" if mode == "1d_rht" else "row"
    found = [
        name
        for name in sorted({key.rpartition("/")[0] for key in file.files})
        if name.endswith(f"/{mode}/{side}")
        and ".32x64.bf16" in name
        and not name.startswith("fp32_subnormal")
    ]
    assert len(found) > 10
    assert MODES[mode].scaling == "amax"
    for entry in found:
        compare(file, entry, function, transpose=False)


def test_vmap_is_a_loop():
    x = jnp.asarray(data("normal", (3, 20, 8)))
    keys = jax.random.split(KEY, 3)
    one = jax.jit(lambda x, key: quantize(x, SPECS["stochastic"], 0, key, **PALLAS))
    together = jax.vmap(one)(x, keys)
    for i in range(3):
        assert_same(jax.tree.map(operator.itemgetter(i), together), one(x[i], keys[i]))


def test_gradient_passes_straight_through():
    x = jnp.asarray(data("normal", (4, 20)))
    loss = lambda x: (fake_quantize(x, SPECS["hadamard"], **PALLAS) ** 2).sum()  # noqa: E731
    y, gradient = fake_quantize(x, SPECS["hadamard"], **PALLAS), jax.grad(loss)(x)
    np.testing.assert_array_equal(gradient, 2 * y)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), gradient)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((jnp.ones((2, 16)), TensorSpec()), {"implementation": "cuda"}, "allowed: 'auto'"),
        ((jnp.ones((2, 16)), TensorSpec()), {"interpret": True}, "goes with"),
        ((jnp.ones((2, 16)), TensorSpec()), {"implementation": "pallas"}, "needs an NVIDIA GPU"),
        ((jnp.ones((0, 16)), TensorSpec()), PALLAS, "the array is empty"),
        ((jnp.ones((2, 16)), TensorSpec(scaling="four_over_six")), PALLAS, "no kernel"),
        ((jnp.ones((2, 16), int), TensorSpec()), PALLAS, "has dtype int32"),
        ((jnp.ones(()), TensorSpec()), PALLAS, "scalar"),
        ((jnp.ones((2, 16)), TensorSpec(), 2), PALLAS, "out of range"),
        ((jnp.ones((2, 16)), SPECS["stochastic"]), PALLAS, "key is None"),
    ],
)
@pytest.mark.parametrize("function", [quantize, fake_quantize])
def test_mistakes(function, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)


@pytest.mark.parametrize("options", [{}, {"implementation": "reference"}])
def test_on_cpu_jnp_quantizes(options):
    x = jnp.asarray(data("normal", (4, 20)))
    assert_same(quantize(x, TensorSpec(), **options), fp4.quantize(x, TensorSpec()))
    assert_same(fake_quantize(x, TensorSpec(), **options), fp4.fake_quantize(x, TensorSpec()))
    empty = jnp.ones((0, 16))
    assert quantize(empty, TensorSpec(), **options).shape == (0, 16)


class TestDispatch:
    """On a CPU that passes for a GPU, where kernels are interpreted."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        monkeypatch.setattr(backend, "supported", lambda: True)
        interpreted = functools.partial(Plan, interpret=True)
        for module in (dispatch, selfcheck):
            monkeypatch.setattr(module, "Plan", lambda *args: interpreted(*args[:2]))
        choose = lambda *args, cuda, default: cuda(*args)  # noqa: E731
        monkeypatch.setattr(dispatch, "lax", types.SimpleNamespace(platform_dependent=choose))
        monkeypatch.setattr(dispatch, "_passed", set())
        switch(True)
        yield
        switch(True)
        jax.clear_caches()  # the choice is made when tracing

    def test_reasons(self, monkeypatch):
        x = jax.ShapeDtypeStruct((32, 32), jnp.float32)
        assert explain_quantize(x, SPECS["nearest"]) == "pallas: fused kernels"
        switch(False)
        assert "switched off" in explain_quantize(x, SPECS["nearest"])
        switch(True)
        monkeypatch.setattr(jax, "device_count", lambda: 8)
        assert "several devices" in explain_quantize(x, SPECS["nearest"])
        monkeypatch.setattr(backend, "supported", lambda: False)
        assert "is not a GPU" in explain_quantize(x, SPECS["nearest"])

    @pytest.mark.parametrize("kind", ["Explicit", "Manual", "Auto"])
    def test_meshes_are_left_to_jnp(self, kind):
        axis_types = (getattr(jax.sharding.AxisType, kind),)
        mesh = jax.sharding.AbstractMesh((8,), ("d",), axis_types)
        with jax.sharding.use_abstract_mesh(mesh):
            assert "mesh" in str(dispatch.why_not((32, 32), "float32", TensorSpec(), (1,)))

    def test_a_wrong_kernel_is_found(self, monkeypatch):
        """One code off: a warning, once, and jnp from then on."""
        right = fused.operand

        def wrong(*args):
            values, amax = right(*args)
            return values.at[-1, -1].add(jnp.bfloat16(1)), amax

        monkeypatch.setattr(fused, "operand", wrong)
        x = jnp.asarray(data("normal", (32, 16)))
        with pytest.warns(RuntimeWarning, match="fused quantizer is not used"):
            got = gemm.operand(x, TensorSpec(), gemm.BlockAxes(-1, None), None)
        monkeypatch.setattr(fused, "operand", right)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = gemm.operand(x, SPECS["hadamard"], gemm.BlockAxes(0, None), None)
        assert "self-check failed" in explain_quantize(x, SPECS["nearest"])
        switch(False)
        assert_same(got, gemm.operand(x, TensorSpec(), gemm.BlockAxes(-1, None), None))
        assert_same(again, gemm.operand(x, SPECS["hadamard"], gemm.BlockAxes(0, None), None))

    def test_a_kernel_that_does_not_compile_is_found(self, monkeypatch):
        def broken(*args):
            raise NotImplementedError("no such instruction")

        monkeypatch.setattr(fused, "operand", broken)
        with pytest.warns(RuntimeWarning, match="no such instruction"):
            assert dispatch.why_not((4, 32), "float32", TensorSpec(), (1,)) is not None

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("hadamard+stochastic", "rows"), ("nearest", "odd columns"), ("16x16", "columns")],
    )
    def test_right_kernels_pass(self, name, kind):
        assert selfcheck.difference(SPECS[name], "float32", "operand", kind) is None

    @pytest.mark.parametrize("result", ["packed", "fake"])
    def test_right_kernels_pass_public(self, result):
        difference = selfcheck.difference(HADAMARD_STOCHASTIC, "bfloat16", result, "columns")
        assert difference is None

    def test_recipes_use_the_kernels(self, monkeypatch):
        """All three GEMMs of a step: the kernels' operands, jnp's values."""
        x = jnp.asarray(data("exact sums", (32, 16)))
        w = jnp.asarray(data("exact sums", (16, 16)))

        def step(x, w):
            dot = lambda x, w: fp4.dot_general(  # noqa: E731
                x, w, (((1,), (0,)), ((), ())), recipe="2d+rht+sr", key=KEY
            )
            y, vjp = jax.vjp(dot, x, w)
            return y, *vjp(x)

        launched = []
        run = pallas_triton.quantize
        monkeypatch.setattr(
            pallas_triton, "quantize", lambda *args: launched.append(args[3].spec) or run(*args)
        )
        monkeypatch.setattr(dispatch, "_passes", lambda *args: True)
        got = jax.jit(lambda x, w: step(x, w))(x, w)
        assert len(launched) >= 6
        count = len(launched)
        monkeypatch.setattr(dispatch, "_why_not_here", lambda: "off")
        jax.clear_caches()
        expected = jax.jit(lambda x, w: step(x, w))(x, w)
        assert len(launched) == count
        assert_same(got, expected)


def structs(shape, dtype):
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.ShapeDtypeStruct(shape, dtype), seed


def launch(plan):
    """Both kernels, of an (r, 16, c) array."""

    def function(x, seed):
        amax = pallas_triton.find_amax(x, plan)
        scalars = arithmetic.Scalars(amax, amax, amax, amax)
        seed = seed if plan.spec.stochastic else None
        return pallas_triton.quantize(x, seed, scalars, plan)

    return function


@pytest.mark.parametrize("result", ["packed", "operand", "fake"])
@pytest.mark.parametrize("name", ["nearest", "hadamard+stochastic", "16x16 stochastic_unbiased"])
def test_lowers_for_gpus(name, result):
    """On plain CPU wheels: with masks, for rows and columns."""
    plan = Plan(SPECS[name], result)
    shapes = [(600, 16, 48)] if plan.tiles else [(600, 16, 1), (9, 16, 48), (9, 16, 6)]
    for shape in shapes:
        text = compile_only.lowers_to_cuda(launch(plan), *structs(shape, jnp.bfloat16))
        assert text.count(f"fp4_quantize_{result}") >= 1
        assert text.count("fp4_amax") >= 1


@pytest.mark.parametrize("op", ["dot_general", "conv_general_dilated"])
def test_recipes_lower_for_gpus(op, monkeypatch):
    """All six operands; a convolution's taps are mapped over."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(dispatch, "_passes", lambda *args: True)

    def loss(x, w):
        options = {"recipe": "2d+rht+sr", "key": KEY}
        if op == "dot_general":
            return (fp4.dot_general(x, w, (((3,), (0,)), ((), ())), **options) ** 2).sum()
        layout = ("NHWC", "HWIO", "NHWC")
        y = fp4.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, **options)
        return (y**2).sum()

    x = jax.ShapeDtypeStruct((2, 8, 8, 32), jnp.float32)
    w = jax.ShapeDtypeStruct((32, 32) if op == "dot_general" else (3, 3, 32, 32), jnp.float32)
    text = compile_only.lowers_to_cuda(jax.grad(loss, (0, 1)), x, w)
    jax.clear_caches()
    assert text.count("fp4_quantize_operand") >= 6


#: SASS instructions an element, of the quantizing kernel alone, in bfloat16 on H200. Counted are
#: all in the code, among them the division's branch for subnormal numbers, which hardly ever runs.
INSTRUCTIONS = {
    ("nearest", "operand"): 22,
    ("hadamard", "operand"): 28,
    ("hadamard+stochastic", "operand"): 34,
    ("hadamard+stochastic", "packed"): 38,
}


@pytest.mark.parametrize(("name", "result"), INSTRUCTIONS)
def test_instructions(name, result, record_property):
    plan = Plan(SPECS[name], result)
    for shape in ((2**16, 16, 1), (64, 16, 8192)):
        report = compile_only.compile_for(
            "H200", launch(plan), *structs(shape, jnp.bfloat16), kernel="fp4_quantize"
        )
        threads, blocks = 32 * pallas_triton._WARPS, pallas_triton._BLOCKS
        count = report.instructions * threads / (blocks * 16)
        kind = "rows" if shape[2] == 1 else "columns"
        record_property(f"{kind}", f"{count:.1f} an element, {report.registers} registers")
        assert count <= INSTRUCTIONS[name, result]
        assert report.spills == 0


@pytest.mark.parametrize("target", compile_only.targets())
@pytest.mark.parametrize("name", ["hadamard+stochastic", "16x16 stochastic_unbiased"])
def test_compiles_without_spills(name, target):
    """Divisions are IEEE's, and nothing is contracted where jnp rounds twice."""
    plan = Plan(SPECS[name], "operand" if name.startswith("16") else "packed")
    report = compile_only.compile_for(
        target, launch(plan), *structs((64, 16, 4096), jnp.bfloat16), kernel="fp4_"
    )
    assert report.spills == 0
    assert "div.rn.f32" in report.ptx
    for wrong in ("div.full", "div.approx", "rcp", ".ftz", "fma.rn.f32"):
        assert wrong not in report.ptx


@pytest.mark.slow
@pytest.mark.parametrize("target", compile_only.targets())
def test_all_kernels_compile(target):
    for spec in SPECS.values():
        for result in ("packed", "operand", "fake"):
            plan = Plan(spec, result)
            for columns in (48, 7, 1)[: 1 if plan.tiles else 3]:
                for dtype in (jnp.float32, jnp.bfloat16):
                    array = structs((600, 16, columns), dtype)
                    report = compile_only.compile_for(target, launch(plan), *array, kernel="fp4_")
                    assert report.spills == 0, (spec, result, columns)


def test_benchmark_shapes_have_kernels():
    for args in BENCHMARKS:
        axes = normalize_axes(args.axis, args.spec.block, len(args.shape))
        assert dispatch.obstacle(args.shape, args.spec, axes) is None
