"""Draws with replacement of the hierarchical bootstrap, as weights: folds and their seeds."""

from collections.abc import Sequence

import numpy as np


def drawn(generator: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    """(resamples, size): how often each of ``size`` is among as many drawn with replacement."""
    return generator.multinomial(size, np.full(size, 1 / size), resamples).astype(np.float64)


def drawn_seeds(
    generator: np.random.Generator, seeds: Sequence[int], resamples: int
) -> list[np.ndarray]:
    """Weights of each fold's seeds: folds are drawn and, each time, as many seeds as a fold has.

    Args:
        generator: of the draws.
        seeds: how many each fold has. A single fold is not drawn: it is all that is known.
        resamples: number of draws.

    Returns:
        (resamples, seeds) for each fold; the sum over seeds is how often the fold was drawn.

    Example:
        >>> weights = drawn_seeds(np.random.default_rng(0), [2, 4], 3)
        >>> sum(fold.sum(1) for fold in weights).tolist()
        [2.0, 2.0, 2.0]
    """
    times = np.ones((resamples, 1))
    if len(seeds) > 1:
        times = drawn(generator, len(seeds), resamples)
    return [
        generator.multinomial((often * size).astype(np.int64), np.full(size, 1 / size)) / size
        for size, often in zip(seeds, times.T, strict=True)
    ]


def check_resamples(resamples: int) -> None:
    """Raises a ValueError unless there is a draw."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples!r}; give at least 1.")
