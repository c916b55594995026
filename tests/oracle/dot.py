"""dot_general with a recipe: fprop, dgrad and wgrad of y = x w, each a batched GEMM.

Canonical arrays:  X (B, M, K)   W (B, K, N)   G (B, M, N);   batch dimensions flattened row-major,
free dimensions in increasing order, contracted dimensions in dimension_numbers' order.

    fprop  Y = X W      blocks along K
    dgrad  dX = G W^T   blocks along N
    wgrad  dW = X^T G   blocks along M

16x16 tiles lie over the last two axes; amax spans the whole operand, all batches.
"""

import math

import numpy as np

from .gemm import Bits, View, contract, enter, operands, residual, through


def dot_general(x, w, g, dimension_numbers, recipe, bits: Bits | None = None) -> dict:
    """y = lax.dot_general(x, w, dimension_numbers), and dx, dw for the cotangent g, quantized.

    Returns y, dx, dw (float64, in the layouts of lax.dot_general, x and w) and
    operands {role: Quantized or None}.
    """
    (x_contract, w_contract), (x_batch, w_batch) = dimension_numbers
    x_free = [d for d in range(x.ndim) if d not in (*x_contract, *x_batch)]
    w_free = [d for d in range(w.ndim) if d not in (*w_contract, *w_batch)]
    y_shape = [x.shape[d] for d in (*x_batch, *x_free)] + [w.shape[d] for d in w_free]
    if list(g.shape) != y_shape:
        raise ValueError(f"g must have y's shape {y_shape}, got {g.shape}")

    X = _flatten(x, x_batch, x_free, x_contract)
    W = _flatten(w, w_batch, w_contract, w_free)
    G = g.reshape(X.shape[0], X.shape[1], W.shape[2])

    tile = (1, 2)
    fx, fw = enter(("fprop.x", "fprop.w"), (View(X, 2, tile), View(W, 1, tile)), recipe.fprop, bits)
    X, W = residual(fx, X, recipe), residual(fw, W, recipe)
    dg, dw = enter(("dgrad.g", "dgrad.w"), (View(G, 2, tile), View(W, 2, tile)), recipe.dgrad, bits)
    wx, wg = enter(("wgrad.x", "wgrad.g"), (View(X, 1, tile), View(G, 1, tile)), recipe.wgrad, bits)

    return {
        "y": contract("bmk,bkn->bmn", fx, fw).reshape(y_shape),
        "dx": through(
            _unflatten(contract("bmn,bkn->bmk", dg, dw), x.shape, (*x_batch, *x_free, *x_contract)),
            x,
            recipe.fprop[0],
        ),
        "dw": _unflatten(
            contract("bmk,bmn->bkn", wx, wg), w.shape, (*w_batch, *w_contract, *w_free)
        ),
        "operands": operands(fx, fw, dg, dw, wx, wg),
    }


def _flatten(a: np.ndarray, *groups) -> np.ndarray:
    """Transpose to the groups of dimensions in turn, flatten each group row-major into one axis."""
    order = [d for group in groups for d in group]
    return a.transpose(order).reshape([math.prod(a.shape[d] for d in group) for group in groups])


def _unflatten(a: np.ndarray, shape: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    """Undo _flatten: shape is the original shape, order the concatenated groups."""
    return a.reshape([shape[d] for d in order]).transpose(np.argsort(order))
