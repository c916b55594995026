"""Two rules of one function, told apart by their factors: 2 forward, 3 in reverse."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

from fp4jax.core.two_modes import two_modes

X, W = np.array([1.0, 2.0, 3.0], np.float32), np.array([0.5, -1.0, 2.0], np.float32)
DX, DW = np.array([1.0, -2.0, 4.0], np.float32), np.array([-1.0, 3.0, 0.5], np.float32)
#: Three lanes of x, two of w.
XS, WS = np.stack([X, -X, 2 * X]), np.stack([W, DW])


def forward(plan, x, w, count):
    return jnp.round(x * w), (x, w, count)


def tangent(plan, saved, tangents):
    x, w, _ = saved
    dx, dw = tangents
    terms = ([] if dx is None else [dx * w]) + ([] if dw is None else [x * dw])
    return plan * sum(terms[1:], terms[0])


def backward(plan, saved, g):
    x, w, _ = saved
    return 3 * g * w, 3 * g * x


product = two_modes(forward, tangent, backward)


def f(x, w):
    return product(2.0, x, w, jnp.int32(1))


def check(of, *args, **expected):
    """``of`` gives what is expected by name; in one program, since eager ones take seconds."""
    jax.tree.map(np.testing.assert_allclose, jax.jit(of)(*args), expected)


def test_each_mode_has_its_rule():
    def run(x, w, dx, dw):
        return {
            "jvp": jax.jvp(f, (x, w), (dx, dw)),
            "jvp_of_w": jax.jvp(lambda w: f(x, w), (w,), (dw,))[1],
            "linearize": jax.linearize(f, x, w)[1](dx, dw),
            "vjp": jax.vjp(f, x, w)[1](dx),
            "grad": jax.grad(lambda w: f(x, w).sum())(w),
        }

    dy = 2 * (DX * W + X * DW)
    check(
        run,
        *(X, W, DX, DW),
        jvp=(np.round(X * W), dy),
        jvp_of_w=2 * X * DW,
        linearize=dy,
        vjp=(3 * DX * W, 3 * DX * X),
        grad=3 * X,
    )


def test_eager():
    np.testing.assert_allclose(jax.jvp(f, (X, W), (DX, DW))[1], 2 * (DX * W + X * DW))


def test_derivatives_of_derivatives():
    def run(x, w, dx, dw):
        def along(x):
            return jax.jvp(lambda x: f(x, w * x), (x,), (dx,))[1]

        def of_direction(dx):
            return jax.jvp(f, (x, w), (dx, dw))[1]

        def gradient(x, w):
            return jax.grad(lambda x: f(x, w).sum())(x)

        return {
            "once": along(x),
            "twice": jax.jvp(along, (x,), (dw,))[1],
            "gradient_of_tangent": jax.grad(lambda x: along(x).sum())(x),
            "tangent_of_direction": jax.jvp(of_direction, (x,), (dx,))[1],
            "gradient_of_direction": jax.grad(lambda dx: of_direction(dx).sum())(dx),
            "tangent_of_gradient": jax.jvp(gradient, (x, w), (dx, dw))[1],
        }

    check(
        run,
        *(X, W, DX, DW),
        # 2 (dx (w x) + x (w dx)) and its derivatives: a tangent is differentiated as it is written,
        # and transposed, in its direction, by the rule for reverse mode.
        once=4 * DX * W * X,
        twice=4 * DX * W * DW,
        gradient_of_tangent=4 * DX * W,
        tangent_of_direction=2 * DX * W,
        gradient_of_direction=3 * W,
        tangent_of_gradient=3 * DW,
    )


def test_of_lanes():
    def run(x, w, xs, ws):
        shared = jax.vmap(f, (0, None))
        twice = jax.vmap(shared, (None, 0))
        return {
            "jvp": jax.jvp(shared, (xs, w), (xs, w))[1],
            "grad": jax.grad(lambda w: shared(xs, w).sum())(w),
            "jacfwd": jax.jacfwd(f)(x, w),
            "jacrev": jax.jacrev(f)(x, w),
            "jvp_twice": jax.jvp(lambda xs: twice(xs, ws), (xs,), (xs,))[1],
            "grad_twice": jax.grad(lambda *args: twice(*args).sum(), (0, 1))(xs, ws),
        }

    check(
        run,
        *(X, W, XS, WS),
        jvp=4 * XS * W,
        grad=3 * XS.sum(0),
        jacfwd=np.diag(2 * W),
        jacrev=np.diag(3 * W),
        jvp_twice=2 * XS[None] * WS[:, None],
        grad_twice=(np.tile(3 * WS.sum(0), (3, 1)), np.tile(3 * XS.sum(0), (2, 1))),
    )


def test_rules_may_name_a_mapped_axis():
    def scaled(axis, x, g):
        return g / lax.pmax(x.max(), axis)

    function = two_modes(
        lambda axis, x: (scaled(axis, x, x), x),
        lambda axis, x, tangents: scaled(axis, x, tangents[0]),
        lambda axis, x, g: (scaled(axis, x, 3 * g),),
        wrt=1,
    )
    of_shard = lambda x: function("shards", x)  # noqa: E731
    mesh = jax.make_mesh((2,), ("shards",), axis_types=(AxisType.Auto,))
    spec = P("shards")
    ways = (
        jax.vmap(of_shard, axis_name="shards"),
        jax.shard_map(of_shard, mesh=mesh, in_specs=spec, out_specs=spec),
    )

    def run(xs):
        return {
            "jvp": [jax.jvp(way, (xs,), (xs,))[1] for way in ways],
            "grad": [jax.grad(lambda x, way=way: way(x).sum())(xs) for way in ways],
        }

    xs = XS[1:]
    check(run, xs, jvp=[xs / 6] * 2, grad=[np.full_like(xs, 0.5)] * 2)


def test_inside_of_control_flow():
    def layers(x, ws, layer):
        def step(x, w):
            return lax.cond(x[0] > 99, lambda x, w: x, layer, x, w), None

        return lax.scan(step, x, ws)[0]

    ways = (f, jax.checkpoint(f))

    def run(x, ws, dx):
        through = [lambda x, way=way: layers(x, ws, way) for way in ways]
        return {
            "jvp": [jax.jvp(way, (x,), (dx,))[1] for way in through],
            "grad": [jax.grad(lambda x, way=way: way(x).sum())(x) for way in through],
        }

    check(
        run,
        *(X, WS, DX),
        jvp=[4 * DX * WS[0] * WS[1]] * 2,
        grad=[9 * WS[0] * WS[1]] * 2,
    )


def test_the_program_of_a_gradient_is_that_of_custom_vjp():
    theirs = jax.custom_vjp(lambda x, w: jnp.round(x * w))
    theirs.defvjp(lambda x, w: forward(None, x, w, None), lambda saved, g: backward(None, saved, g))
    texts = [
        jax.jit(jax.grad(lambda x, w, g=g: jnp.square(g(x, w)).sum(), (0, 1))).lower(X, W).as_text()
        for g in (f, theirs)
    ]
    assert texts[0] == texts[1]
