"""Random Hadamard transform (RHT) of 16, as TransformerEngine fixes it.

y = x.reshape(-1, 16) @ R,   R = diag(s) H16 / 4,   R R^T = 1,
H16 = Sylvester's matrix, s = a fixed vector of signs.
"""

import numpy as np

SIGNS = np.array([1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1], np.float32)


def _sylvester(n: int) -> np.ndarray:
    """H1 = [1];  H2n = [[Hn, Hn], [Hn, -Hn]]."""
    h = np.ones((1, 1), np.float32)
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h


# Entries +-1; the 1/4 is applied to x, before any sum can overflow.
SIGNED_H16 = SIGNS[:, None] * _sylvester(16)


def _times(x: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """(x / 4) @ matrix on groups of 16 along axis.

    In float32, summed in index order, rounded once to x's dtype.
    """
    groups = np.moveaxis(x, axis, -1)
    split = groups.reshape(*groups.shape[:-1], groups.shape[-1] // 16, 16)
    quarter = split.astype(np.float32) * np.float32(0.25)
    total = np.zeros_like(quarter)
    for i in range(16):
        total = total + quarter[..., i : i + 1] * matrix[i]
    return np.moveaxis(total.astype(x.dtype).reshape(groups.shape), -1, axis)


def rotate(x: np.ndarray, axis: int) -> np.ndarray:
    """RHT along an axis whose length is a multiple of 16."""
    return _times(x, SIGNED_H16, axis)


def rotate_back(y: np.ndarray, axis: int) -> np.ndarray:
    """Inverse RHT: y @ R^T."""
    return _times(y, SIGNED_H16.T, axis)
