"""Who quantizes: kernels or jnp, and why; what becomes of a kernel that is wrong."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import TensorSpec, kernels
from fp4jax.core.blocks import normalize_axes
from fp4jax.kernels import backend
from fp4jax.kernels.fused_quantizer import dispatch, fused
from fp4jax.kernels.fused_quantizer.arg_specs import BENCHMARKS, SPECS
from fp4jax.ops import gemm
from tests import compile_only
from tests.kernels.quantized import KEY, assert_same, data


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


def test_benchmark_shapes_have_kernels():
    for args in BENCHMARKS:
        axes = normalize_axes(args.axis, args.spec.block, len(args.shape))
        assert dispatch.obstacle(args.shape, args.spec, axes) is None
