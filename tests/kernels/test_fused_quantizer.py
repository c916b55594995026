"""The fused quantizer against jnp, byte for byte, in interpret mode; lowered and compiled for GPUs.

On CPU XLA chooses the order in which jnp's rotation sums 16 numbers. Rotations are compared on
arrays whose sums are exact, and on general numbers in the order that jnp has on GPUs.
"""

import functools
import operator
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fp4jax as fp4
from fp4jax import TensorSpec, kernels
from fp4jax.core import hadamard, reference
from fp4jax.core.blocks import normalize_axes
from fp4jax.core.qtensor import QTensor
from fp4jax.kernels import backend, first_use, placement
from fp4jax.kernels.fused_quantizer import arithmetic, dispatch, fused, pallas_triton, selfcheck
from fp4jax.kernels.fused_quantizer.arg_specs import BENCHMARKS, HADAMARD_STOCHASTIC, SPECS
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan
from fp4jax.ops import gemm
from tests import compile_only
from tests.core.test_golden import FILES, MODES, compare

KEY = jax.random.key(3)


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


def quantized(implementation, result, spec, axis, x, key=None, **options):
    """Codes, scales and amax; a GEMM's operand as float32 and amax; or dequantized values."""
    axes = normalize_axes(axis, spec.block, x.ndim)
    if result == "operand":
        values, amax = implementation.operand(x, key, None, spec, axes, **options)
        return values.astype(jnp.float32), amax
    return getattr(implementation, result)(x, key, spec, axes, **options)


interpreted = functools.partial(quantized, fused, interpret=True)


@pytest.fixture
def fixed_order(monkeypatch):
    """Rotations of jnp as on GPUs."""
    monkeypatch.setattr(hadamard, "by_platform", lambda *args, cpu, default: default(*args))


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
    """One compilation each for all kinds of numbers."""
    ours = jax.jit(functools.partial(interpreted, result, spec, axis))
    jnps = jax.jit(functools.partial(quantized, reference, result, spec, axis))
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
    arguments = ("packed", HADAMARD_STOCHASTIC, axis, x, KEY)
    q = fp4.quantize(x, HADAMARD_STOCHASTIC, axis, KEY)
    assert_same(interpreted(*arguments), (q.codes, q.block_scales, q.amax))


@settings(max_examples=2)
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
    if reason := dispatch.obstacle(shape, spec, normalize_axes(axis, spec.block, x.ndim)):
        assert "random bits belong to positions" in reason
        return
    ours = jax.jit(lambda x: interpreted("packed", spec, axis, x, KEY))(x)
    assert_same(ours, jax.jit(lambda x: quantized(reference, "packed", spec, axis, x, KEY))(x))


@pytest.mark.parametrize("mode", ["1d", "2d", "1d_rht"])
def test_golden(golden, mode):
    """TransformerEngine's bits, of 64 columns in bfloat16 (one compilation)."""

    @functools.cache
    def function(spec, axis):
        def compute(x):
            axes = normalize_axes(axis, spec.block, x.ndim)
            last = tuple(a - x.ndim for a in axes)
            lengths = tuple(x.shape[a] for a in axes)
            q = QTensor(*interpreted("packed", spec, axis, x), last, lengths, spec)
            values = q.dequantize(rotated=True)
            return q.codes, q.unpacked_codes(), q.block_scales, q.amax, values

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
    one = jax.jit(lambda x, key: interpreted("packed", SPECS["stochastic"], 0, x, key))
    together = jax.vmap(one)(x, keys)
    for i in range(3):
        assert_same(jax.tree.map(operator.itemgetter(i), together), one(x[i], keys[i]))


def test_one_object_under_two_names():
    assert kernels.quantize is fp4.quantize
    assert kernels.fake_quantize is fp4.fake_quantize


def test_a_cpu_has_no_kernels():
    x = jnp.asarray(data("normal", (4, 20)))
    for function in (fp4.quantize, fp4.fake_quantize):
        for options in ({}, {"implementation": "reference"}):
            assert_same(function(x, TensorSpec(), **options), function(x, TensorSpec()))
        with pytest.raises(ValueError, match="there is no kernel for this: cpu is not a GPU"):
            function(x, TensorSpec(), implementation="fused")
        with pytest.raises(ValueError, match="two candidates"):
            function(x, TensorSpec(scaling="four_over_six"), implementation="fused")
    said = kernels.explain_quantize(x, TensorSpec())
    assert said.startswith("reference: cpu is not a GPU")
    assert "exported to GPUs from here holds jnp" in said


def test_programs_exported_from_a_cpu_hold_jnp():
    f = jax.jit(lambda x: fp4.quantize(x, TensorSpec()))
    exported = jax.export.export(f, platforms=["cuda"])
    text = exported(jax.ShapeDtypeStruct((4, 32), jnp.float32)).mlir_module()
    assert compile_only.TRITON not in text
    assert "f8E4M3FN" in text


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


@pytest.mark.usefixtures("gpu", "one_device")
class TestDispatch:
    def test_reasons(self, monkeypatch, unchecked):
        explain = functools.partial(
            kernels.explain_quantize, jax.ShapeDtypeStruct((32, 32), jnp.float32)
        )
        assert explain(SPECS["nearest"]) == "fused: kernels"
        dispatch.switch(False)
        assert "switched off" in explain(SPECS["nearest"])
        dispatch.switch(True)
        monkeypatch.setattr(jax, "device_count", lambda: 8)
        assert "programs for one device" in explain(SPECS["nearest"])
        monkeypatch.setattr(backend, "local_capability", lambda: None)
        assert "has to prove itself first" in explain(SPECS["nearest"])
        monkeypatch.setattr(backend, "supported", lambda: False)
        assert "is not a GPU" in explain(SPECS["nearest"])

    def test_public_functions_take_the_kernels(self, unchecked, launched):
        x = jnp.asarray(data("normal", (8, 40)))
        for function in (fp4.quantize, fp4.fake_quantize):
            for spec in (SPECS["nearest"], SPECS["stochastic"]):
                count = len(launched)
                y = function(x, spec, key=KEY, implementation="fused")
                assert len(launched) == count + 1
                assert_same(y, function(x, spec, key=KEY, implementation="reference"))
        loss = lambda x: (fp4.fake_quantize(x, SPECS["nearest"]) ** 2).sum()  # noqa: E731
        np.testing.assert_array_equal(jax.grad(loss)(x), 2 * fp4.fake_quantize(x, SPECS["nearest"]))

    def test_a_wrong_kernel_is_found(self, monkeypatch):
        """One code off: a warning, once, and jnp from then on."""
        right = fused.operand

        def wrong(*args, **options):
            values, amax = right(*args, **options)
            return values.at[-1, -1].add(jnp.bfloat16(1)), amax

        monkeypatch.setattr(fused, "operand", wrong)
        x = jnp.asarray(data("normal", (32, 16)))
        with pytest.warns(
            RuntimeWarning, match="failed its self-check .* the kernel's result differs"
        ):
            got = gemm.operand(x, TensorSpec(), gemm.BlockAxes(-1, None), None)
        monkeypatch.setattr(fused, "operand", right)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = gemm.operand(x, SPECS["hadamard"], gemm.BlockAxes(0, None), None)
        assert "failed its self-check" in kernels.explain_quantize(x, SPECS["nearest"])
        with pytest.raises(ValueError, match="failed its self-check"):
            fp4.quantize(x, TensorSpec(), implementation="fused")
        dispatch.switch(False)
        assert_same(got, gemm.operand(x, TensorSpec(), gemm.BlockAxes(-1, None), None))
        assert_same(again, gemm.operand(x, SPECS["hadamard"], gemm.BlockAxes(0, None), None))

    def test_a_kernel_that_does_not_compile_is_found(self, monkeypatch):
        def broken(*args, **options):
            raise NotImplementedError("no such instruction")

        monkeypatch.setattr(fused, "operand", broken)
        with pytest.warns(RuntimeWarning, match="no such instruction"):
            assert dispatch.why_not((4, 32), "float32", TensorSpec(), (1,)) is not None

    def test_recipes_use_the_kernels(self, monkeypatch, unchecked, launched):
        """All three GEMMs of a step: the kernels' operands, jnp's values."""
        x = jnp.asarray(data("exact sums", (32, 16)))
        w = jnp.asarray(data("exact sums", (16, 16)))

        def step(x, w):
            dot = lambda x, w: fp4.dot_general(  # noqa: E731
                x, w, (((1,), (0,)), ((), ())), recipe="2d+rht+sr", key=KEY
            )
            y, vjp = jax.vjp(dot, x, w)
            return y, *vjp(x)

        got = jax.jit(lambda x, w: step(x, w))(x, w)
        assert len(launched) >= 6
        count = len(launched)
        dispatch.switch(False)
        jax.clear_caches()
        expected = jax.jit(lambda x, w: step(x, w))(x, w)
        assert len(launched) == count
        assert_same(got, expected)


SELF_CHECKS = [
    ("hadamard+stochastic", "float32", "operand", "rows"),
    ("nearest", "float32", "operand", "odd columns"),
    ("16x16", "float32", "operand", "columns"),
    ("hadamard+stochastic", "bfloat16", "packed", "columns"),
    ("hadamard+stochastic", "bfloat16", "fake", "columns"),
]


@pytest.mark.parametrize(
    ("name", "dtype", "result", "kind"),
    [pytest.param(*c, marks=[pytest.mark.slow] * bool(i % 2)) for i, c in enumerate(SELF_CHECKS)],
)
def test_right_kernels_pass_the_self_check(name, dtype, result, kind):
    assert selfcheck.difference(SPECS[name], dtype, result, kind, interpret=True) is None


@pytest.mark.usefixtures("gpu", "unchecked")
class TestSeveralDevices:
    """This process has eight. Results are jnp's everywhere; who computes them is counted."""

    spec = SPECS["stochastic"]
    x = jnp.asarray(data("normal", (64, 48)))

    def mesh(self, kind, size=8):
        axis_type = getattr(jax.sharding.AxisType, kind)
        return jax.make_mesh((size,), ("d",), axis_types=(axis_type,), devices=jax.devices()[:size])

    def test_one_device_without_a_mesh(self, launched):
        x = jax.device_put(self.x, jax.devices()[3])
        y = fp4.fake_quantize(x, self.spec, key=KEY, implementation="fused")
        assert launched
        assert_same(y, fp4.fake_quantize(self.x, self.spec, key=KEY, implementation="reference"))

    @pytest.mark.parametrize("spec", [("d",), (None, "d")], ids=["rows", "columns"])
    def test_sharded_without_a_mesh(self, spec, launched):
        """Known only when the program is lowered: jnp, which the compiler divides."""
        where = jax.sharding.NamedSharding(self.mesh("Auto"), jax.P(*spec))
        y = jax.jit(lambda x: fp4.fake_quantize(x, self.spec, key=KEY))(
            jax.device_put(self.x, where)
        )
        assert not launched
        assert_same(y, fp4.fake_quantize(self.x, self.spec, key=KEY, implementation="reference"))

    def test_vmap_and_grad_without_a_mesh(self):
        f = lambda x: (fp4.fake_quantize(x, self.spec, key=KEY) ** 2).sum()  # noqa: E731
        x = self.x.reshape(4, 16, 48)
        got = jax.jit(jax.vmap(jax.grad(f)))(x)
        dispatch.switch(False)
        jax.clear_caches()
        assert_same(got, jax.jit(jax.vmap(jax.grad(f)))(x))

    @pytest.mark.parametrize("kind", ["Auto", "Explicit"])
    def test_divided_meshes_are_left_to_jnp(self, kind, launched):
        with jax.set_mesh(self.mesh(kind)):
            x = jax.device_put(self.x, jax.P("d"))
            y = fp4.fake_quantize(x, self.spec, key=KEY)
            with pytest.raises(ValueError, match=r"divided over the mesh axes \('d',\)"):
                fp4.quantize(x, self.spec, key=KEY, implementation="fused")
        assert not launched
        assert_same(y, fp4.fake_quantize(self.x, self.spec, key=KEY, implementation="reference"))

    @pytest.mark.parametrize("kind", ["Auto", "Explicit"])
    def test_a_mesh_of_one_device(self, kind, launched):
        with jax.set_mesh(self.mesh(kind, 1)):
            x = jax.device_put(self.x, jax.P("d"))
            y = fp4.fake_quantize(x, self.spec, key=KEY, implementation="fused")
        assert launched
        assert_same(y, fp4.fake_quantize(self.x, self.spec, key=KEY, implementation="reference"))

    def test_shard_map(self, launched):
        """Each device's part is an array of its own."""

        def part(x):
            return fp4.fake_quantize(x, self.spec, key=KEY, implementation="fused")

        # Pallas' interpreter does not keep track of what varies; lowering is tested below.
        options = {"mesh": self.mesh("Auto"), "in_specs": jax.P("d"), "out_specs": jax.P("d")}
        y = jax.jit(jax.shard_map(part, check_vma=False, **options))(self.x)
        assert launched
        each = [
            fp4.fake_quantize(rows, self.spec, key=KEY, implementation="reference")
            for rows in jnp.split(self.x, 8)
        ]
        assert_same(y, jnp.concatenate(each))


@pytest.mark.parametrize("check", [True, False])
def test_shard_map_lowers_for_gpus(check, monkeypatch):
    """A kernel in each device's part, also where JAX checks what varies over devices."""
    monkeypatch.setattr(dispatch, "_objection", lambda *args: None)
    monkeypatch.setattr(first_use, "not_at_hand", lambda capability: None)
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
    mesh = jax.sharding.AbstractMesh(
        (4,), ("d",), (jax.sharding.AxisType.Auto,), abstract_device=device
    )

    def part(x, key):
        y = fp4.fake_quantize(x, SPECS["stochastic"], key=key, implementation="fused")
        q = fp4.quantize(x, SPECS["hadamard"], implementation="fused")
        return y, q.codes, q.block_scales

    every = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(jax.P("d"), jax.P()),
        out_specs=jax.P("d"),
        check_vma=check,
    )
    with jax.sharding.use_abstract_mesh(mesh):
        x = jax.ShapeDtypeStruct((64, 48), jnp.bfloat16)
        traced = jax.jit(every).trace(x, jax.eval_shape(lambda: KEY))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(compile_only.TRITON) >= 4


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
    monkeypatch.setattr(dispatch, "_objection", lambda *args: None)
    monkeypatch.setattr(first_use, "not_at_hand", lambda capability: None)

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


#: Most SASS instructions an element, of the quantizing kernel alone, in bfloat16 on H200; with
#: CUDA 13 they are 22, 28, 34 and 38. Far more would mean that work is repeated, or that something
#: is no longer computed in registers.
MOST_INSTRUCTIONS = {
    ("nearest", "operand"): 30,
    ("hadamard", "operand"): 38,
    ("hadamard+stochastic", "operand"): 46,
    ("hadamard+stochastic", "packed"): 50,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "result"), MOST_INSTRUCTIONS)
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
        assert count <= MOST_INSTRUCTIONS[name, result]
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


@pytest.mark.parametrize("result", ["packed", "fake"])
def test_a_given_amax(result):
    """As of a calibration: what exceeds it is clamped as jnp clamps it, but for NaN and Inf."""
    spec, axes = TensorSpec(amax="static"), (1,)
    ours = jax.jit(lambda x, a: getattr(fused, result)(x, None, spec, axes, a, interpret=True))
    theirs = jax.jit(lambda x, a: getattr(reference, result)(x, None, spec, axes, a))
    for kind in ("normal", "inf", "nan"):
        for amax in map(jnp.float32, (1.5, jnp.inf)):
            x = jnp.asarray(data(kind, (4, 32)))
            assert_same(ours(x, amax), theirs(x, amax), kind)
