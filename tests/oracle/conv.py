"""Convolution and transposed convolution with a recipe, channels last.

The three GEMMs run over (position, tap, channel). Correlation as in lax, the kernel is never
flipped. Taps t are flattened row-major over the kernel's spatial index, positions m row-major over
(n, *spatial). patches[m, t, :] is the pixel that position m meets through tap t, or zero.

    conv             x (N, *in, C)  w (*k, C/groups, O)  g (N, *out, O)
                     P = patches of x at the output positions
      fprop  y[m,o]    = sum_tc P[m,t,c] w[t,c,o]    blocks along c, pixels quantized once, before P
      dgrad  dP[m,t,c] = sum_o  g[m,o]   w[t,c,o]    blocks along o; dx = dP added to where P read
      wgrad  dw[t,c,o] = sum_m  P[m,t,c] g[m,o]      blocks along m

    conv_transpose   x (N, *in, C)  w (*k, C, O)  g (N, *out, O)
                     Q = patches of g at the input positions
      fprop  dQ[m,t,o] = sum_c  x[m,c]   w[t,c,o]    blocks along c; y = dQ added to where Q reads
      dgrad  dx[m,c]   = sum_to Q[m,t,o] w[t,c,o]    blocks along o, pixels quantized once, before Q
      wgrad  dw[t,c,o] = sum_m  x[m,c]   Q[m,t,o]    blocks along m

16x16 tiles exist for weights only: over (c, o), per tap and group.
Source: design.md 4, numerics.md 2 "Convolution".
"""

import math

from .gemm import Bits, View, contract, enter, operands, residual, through
from .patches import Window, extract, scatter


def conv(
    x,
    w,
    g,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    feature_group_count,
    recipe,
    bits: Bits | None = None,
) -> dict:
    """y = lax.conv_general_dilated(x, w, ...), and dx, dw for the cotangent g, quantized.

    padding: a pair (low, high) per spatial dimension; negative values crop. Returns what
    dot_general returns. Views: x (N, *in, groups, C/groups), w (*k, C/groups, groups, O/groups),
    g (N, *out, groups, O/groups); in wgrad patches (M, taps, groups, C/groups) and
    g (M, groups, O/groups).
    """
    kernel, c, groups = w.shape[:-2], w.shape[-2], feature_group_count
    o = w.shape[-1] // groups
    windows = []
    dimensions = zip(
        x.shape[1:-1], kernel, window_strides, padding, lhs_dilation, rhs_dilation, strict=True
    )
    for size, taps, stride, (low, high), x_dilation, w_dilation in dimensions:
        rows = _dilated(size, x_dilation) + low + high - _dilated(taps, w_dilation)
        rows = max(0, rows // stride + 1)
        steps = {"row_step": stride, "tap_step": w_dilation, "offset": -low}
        windows.append(Window(rows, taps, size, **steps, divisor=x_dilation))
    positions, taps = (x.shape[0], *(window.rows for window in windows)), math.prod(kernel)
    _check(g, (*positions, groups * o))
    m = math.prod(positions)

    X = x.reshape(*x.shape[:-1], groups, c)
    W = w.reshape(*kernel, c, groups, o)
    G = g.reshape(*positions, groups, o)
    w_c, w_o = W.ndim - 3, W.ndim - 1
    fx, fw = enter(
        ("fprop.x", "fprop.w"), (View(X, X.ndim - 1), View(W, w_c, (w_c, w_o))), recipe.fprop, bits
    )
    X, W = residual(fx, X, recipe), residual(fw, W, recipe)
    P = extract(X, windows).reshape(m, taps, groups, c)
    dg, dw = enter(
        ("dgrad.g", "dgrad.w"), (View(G, G.ndim - 1), View(W, w_o, (w_c, w_o))), recipe.dgrad, bits
    )
    wx, wg = enter(
        ("wgrad.x", "wgrad.g"), (View(P, 0), View(G.reshape(m, groups, o), 0)), recipe.wgrad, bits
    )

    c_in, o_in = fx.values.shape[-1], dg.values.shape[-1]  # c and o, or padded to 16 where rotated
    fx_patches = fx.map(lambda v: extract(v, windows).reshape(m, taps, groups, c_in))
    y = contract("mtgc,tcgo->mgo", fx_patches, fw.map(lambda v: v.reshape(taps, c_in, groups, o)))
    dw_taps = dw.map(lambda v: v.reshape(taps, c, groups, o_in))
    dP = contract("mgo,tcgo->mtgc", dg.map(lambda v: v.reshape(m, groups, o_in)), dw_taps)
    return {
        "y": y.reshape(g.shape),
        "dx": through(
            scatter(dP.reshape(*positions, taps, groups, c), windows).reshape(x.shape),
            x,
            recipe.fprop[0],
        ),
        "dw": contract("mtgc,mgo->tcgo", wx, wg).reshape(w.shape),
        "operands": operands(fx, fw, dg, dw, wx, wg),
    }


def conv_transpose(
    x, w, g, strides, padding, rhs_dilation, recipe, bits: Bits | None = None
) -> dict:
    """y = lax.conv_transpose(x, w, ...), and dx, dw for the cotangent g, quantized.

    padding: a pair (low, high) per spatial dimension as lax.conv_transpose takes it, that is, of
    conv_general_dilated(window_strides=1, lhs_dilation=strides). Input position i meets through
    tap t the output pixel i * stride + low - t * rhs_dilation. Returns what dot_general returns.
    Views: x, w and g themselves; in wgrad x (M, C) and patches (M, taps, O).
    """
    kernel, c, o = w.shape[:-2], w.shape[-2], w.shape[-1]
    windows = []
    dimensions = zip(x.shape[1:-1], kernel, strides, padding, rhs_dilation, strict=True)
    for rows, taps, stride, (low, high), w_dilation in dimensions:
        size = max(0, _dilated(rows, stride) + low + high - _dilated(taps, w_dilation) + 1)
        windows.append(
            Window(rows, taps, size, row_step=stride, tap_step=-w_dilation, offset=low, divisor=1)
        )
    positions, taps = x.shape[:-1], math.prod(kernel)
    _check(g, (x.shape[0], *(window.size for window in windows), o))
    m = math.prod(positions)

    w_c, w_o = w.ndim - 2, w.ndim - 1
    fx, fw = enter(
        ("fprop.x", "fprop.w"), (View(x, x.ndim - 1), View(w, w_c, (w_c, w_o))), recipe.fprop, bits
    )
    X, W = residual(fx, x, recipe), residual(fw, w, recipe)
    Q = extract(g, windows).reshape(m, taps, o)
    dg, dw = enter(
        ("dgrad.g", "dgrad.w"), (View(g, g.ndim - 1), View(W, w_o, (w_c, w_o))), recipe.dgrad, bits
    )
    wx, wg = enter(
        ("wgrad.x", "wgrad.g"), (View(X.reshape(m, c), 0), View(Q, 0)), recipe.wgrad, bits
    )

    c_in, o_in = fx.values.shape[-1], dg.values.shape[-1]  # c and o, or padded to 16 where rotated
    fw_taps = fw.map(lambda v: v.reshape(taps, c_in, o))
    dQ = contract("mc,tco->mto", fx.map(lambda v: v.reshape(m, c_in)), fw_taps)
    dg_patches = dg.map(lambda v: extract(v, windows).reshape(m, taps, o_in))
    dx = contract("mto,tco->mc", dg_patches, dw.map(lambda v: v.reshape(taps, c, o_in)))
    return {
        "y": scatter(dQ.reshape(*positions, taps, o), windows),
        "dx": through(dx.reshape(x.shape), x, recipe.fprop[0]),
        "dw": contract("mc,mto->tco", wx, wg).reshape(w.shape),
        "operands": operands(fx, fw, dg, dw, wx, wg),
    }


def _dilated(n: int, dilation: int) -> int:
    """Length of n elements with dilation - 1 zeros between neighbours."""
    return (n - 1) * dilation + 1 if n else 0


def _check(g, y_shape: tuple[int, ...]) -> None:
    if g.shape != y_shape:
        raise ValueError(f"g must have y's shape {y_shape}, got {g.shape}")
