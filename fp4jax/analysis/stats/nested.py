"""The mean of differences that share folds: a mixed model with a random effect of the fold."""

import numpy as np

from fp4jax.analysis.stats.effect import Mean


def nested_mean(d: np.ndarray, folds: np.ndarray) -> Mean:
    """The mean over patients of d_fp = mu + u_f + e_fp, with a random effect u of each fold.

    All patients of a fold are segmented by the same networks, so what these gain or lose is common
    to them: n patients are worth fewer independent ones. With n_f patients in k folds, mean squares
    B between and W within folds, and m = sum n_f^2 / n, analysis of variance [1] gives

        Var(mean) = (c B + (1 - c) W) / n,    c = m (k - 1) / (n - m),

    which is B / n for folds of equal size, with Satterthwaite's degrees of freedom [2]. Where
    B <= W, folds differ no more than their patients make them: u is dropped, and the error is
    that of n independent differences. In simulated studies without a difference, with 5 folds of 11
    or 22 patients, or of 2 to 20, such a test rejected at 5 % in 2 to 6 %, whatever the folds'
    share of the variance; Wilcoxon's, as any other over patients alone, in up to 60 %.

    Training sets of folds overlap, which no estimate from one cross-validation can account for [3].

    Args:
        d: (n,) differences, of a patient each.
        folds: (n,) the fold of each.

    Returns:
        The error is NaN with fewer than two folds: nothing is then known of other training sets.

    [1] S. R. Searle, G. Casella, C. E. McCulloch, Variance Components (1992), 3.6.
    [2] F. E. Satterthwaite, An approximate distribution of estimates of variance components,
    Biometrics Bull. 2 (1946) 110.
    [3] Y. Bengio, Y. Grandvalet, No unbiased estimator of the variance of k-fold cross-validation,
    J. Mach. Learn. Res. 5 (2004) 1089.

    Example:
        >>> d = np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.4])
        >>> found = nested_mean(d, np.array([0, 0, 1, 1, 2, 2]))
        >>> round(found.value, 3), round(found.error, 3), round(found.freedom, 1)
        (0.217, 0.073, 2.0)
    """
    which, sizes = np.unique(folds, return_inverse=True, return_counts=True)[1:]
    n, k = len(d), len(sizes)
    if k < 2:
        return Mean(float(d.mean()) if n else float("nan"), float("nan"), float("nan"))
    if n == k:
        return Mean.of(d)
    means = np.bincount(which, d) / sizes
    between = float(sizes @ (means - d.mean()) ** 2) / (k - 1)
    within = float(np.sum((d - means[which]) ** 2)) / (n - k)
    if between <= within:
        return Mean.of(d)
    m = float(np.sum(sizes**2)) / n
    c = m * (k - 1) / (n - m)
    first, second = c * between, (1 - c) * within
    freedom = (first + second) ** 2 / (first**2 / (k - 1) + second**2 / (n - k))
    return Mean(float(d.mean()), ((first + second) / n) ** 0.5, freedom)
