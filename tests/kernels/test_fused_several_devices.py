"""The fused quantizer where there are several devices: sharded arrays, meshes, shard_map."""

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from fp4jax.kernels import first_use
from fp4jax.kernels.fused_quantizer import dispatch
from fp4jax.kernels.fused_quantizer.arg_specs import SPECS
from tests import compile_only
from tests.kernels.quantized import KEY, assert_same, data


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
