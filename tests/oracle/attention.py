"""Attention whose two products are quantized, from the formulas alone; all in float64 but operands.

For each batch entry and head of k, with X = Q, W = K^T (d contracted) and X = P D, W = V (keys
contracted) in the notation of dot.py:

    S  = scale Q(Q) Q(K)^T + bias              P = softmax(S)            O = Q(P D) Q(V)
    dV = (P D)^T dO       dP = D * (dO V^T)    dS = P * (dP - row)
    dQ = scale dS K       dK = scale dS^T Q    dbias = dS

residuals="quantized" of a product's recipe puts Q(Q), Q(K), Q(P D), Q(V) into its backward pass.

    row     row_sums="exact": dO . O' with O' = (P D) V in high precision, V as the backward pass
            has it.                                    row_sums="output": dO . O
    P       logits="original": exp(scale Q K^T + bias - L), L the log-sum-exp of the forward pass.
"""

import numpy as np

from .gemm import View, contract, enter, residual

TILE = (1, 2)


def attention(q, k, v, do, recipe, scale, bias=None, mask=None, dropout=None) -> dict:
    """o, dq, dk, dv and dbias of q (b, m, h, d), k (b, t, kh, d), v (b, t, kh, e), do (b, m, h, e).

    bias, mask and dropout are (b, h, m, t), or None.
    """
    heads, shared = k.shape[2], q.shape[2] // k.shape[2]
    Q, K, V, G = (_flat(a, heads) for a in (q, k, v, do))
    bias, mask, factors = (
        None if a is None else _of_logits(a, heads) for a in (bias, mask, dropout)
    )

    fq, fk = _enter("qk.fprop", (Q, 2), (K, 2), recipe.qk.fprop)
    S = _logits(contract("bmd,btd->bmt", fq, fk), scale, bias, mask)
    P, L = _softmax(S)
    D = 1.0 if factors is None else factors
    PD = (P * D).astype(np.float32)
    fp, fv = _enter("pv.fprop", (PD, 2), (V, 1), recipe.pv.fprop)
    out = contract("bmt,bte->bme", fp, fv)

    if recipe.logits == "original":
        exact = np.einsum("bmd,btd->bmt", Q.astype(np.float64), K.astype(np.float64))
        P = np.exp(_logits(exact, scale, bias, mask) - L)
        PD = (P * D).astype(np.float32)
    bq, bk = residual(fq, Q, recipe.qk), residual(fk, K, recipe.qk)
    # The codes of the forward pass, unless P is another.
    again = _enter("pv.fprop", (PD, 2), (V, 1), recipe.pv.fprop)[0]
    bp, bv = residual(again, PD, recipe.pv), residual(fv, V, recipe.pv)

    gd, vd = _enter("pv.dgrad", (G, 2), (bv, 2), recipe.pv.dgrad)
    dP = contract("bme,bte->bmt", gd, vd) * D
    pw, gw = _enter("pv.wgrad", (bp, 1), (G, 1), recipe.pv.wgrad)
    dV = contract("bmt,bme->bte", pw, gw)
    if recipe.row_sums == "exact" and recipe.pv.dgrad == (None, None):
        high = np.einsum("bmt,bte->bme", P * D, bv.astype(np.float64))
        row = (G * high).sum(-1, keepdims=True)
    elif recipe.row_sums == "exact":
        # Of a quantized dP.
        row = (dP * P).sum(-1, keepdims=True)
    else:
        row = (G * out).sum(-1, keepdims=True)
    dS = P * (dP - row)
    dZ = (dS * scale).astype(np.float32)
    gd, kd = _enter("qk.dgrad", (dZ, 2), (bk, 1), recipe.qk.dgrad)
    qw, gw = _enter("qk.wgrad", (bq, 1), (dZ, 1), recipe.qk.wgrad)
    return {
        "o": _unflat(out, q.shape),
        "dq": _unflat(contract("bmt,btd->bmd", gd, kd), q.shape),
        "dk": _unflat(contract("bmd,bmt->btd", qw, gw), k.shape),
        "dv": _unflat(dV, v.shape),
        "dbias": _per_head(dS, q.shape, shared),
    }


def _enter(product: str, first, second, specs):
    roles = (f"{product}.x", f"{product}.w")
    views = tuple(View(array, axis, TILE) for array, axis in (first, second))
    return enter(roles, views, specs, None)


def _logits(product, scale, bias, mask):
    S = product * scale
    if bias is not None:
        S = S + bias
    return S if mask is None else np.where(mask, S, -np.inf)


def _softmax(S):
    top = S.max(-1, keepdims=True)
    e = np.exp(S - top)
    total = e.sum(-1, keepdims=True)
    return e / total, top + np.log(total)


def _flat(a, heads):
    """(b, n, h, d) -> (b kh, n g, d): the heads that share one of k follow each other."""
    b, n, h, d = a.shape
    a = a.reshape(b, n, heads, h // heads, d).transpose(0, 2, 1, 3, 4)
    return a.reshape(b * heads, n * (h // heads), d)


def _unflat(a, shape):
    b, n, h, _ = shape
    heads = a.shape[0] // b
    return a.reshape(b, heads, n, h // heads, -1).transpose(0, 2, 1, 3, 4).reshape(b, n, h, -1)


def _of_logits(a, heads):
    """(b, h, m, t) -> (b kh, m g, t)."""
    return _flat(a.transpose(0, 2, 1, 3), heads)


def _per_head(a, shape, shared):
    b, m, h, _ = shape
    a = a.reshape(b, h // shared, m, shared, -1).transpose(0, 1, 3, 2, 4)
    return a.reshape(b, h, m, -1)
