"""Architecture and recipe as sources of variance: a mixed model, and bootstrap intervals."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from fp4jax.analysis.claims.coverage import whole_labels
from fp4jax.analysis.figures.style import ordered_archs, ordered_labels, ordered_scales
from fp4jax.analysis.stats.draws import drawn
from fp4jax.analysis.stats.nested import nested_mean
from fp4jax.analysis.stats.rows import training_set
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

_COLUMNS = ["scale", "metric", "source", "variance", "low", "high", "share", "share_low"]
_COLUMNS += ["share_high", "archs", "labels", "patients", "folds", "converged"]


def variances(
    scores: Any, metric: str, folds: int, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Sources of variance of the patients' scores, for each scale.

    With y_arfp the score of patient p of fold f under recipe r in architecture a (mean over seeds),

        y_arfp = mu + A_a + R_r + (AR)_ar + u_f + n_arf + v_p + w_ap + e_arfp,

    A, R and AR fixed, and independent random effects of the fold u, of the trained network n, of
    the patient v, of the patient in an architecture w, and a residual e: statsmodels' MixedLM,
    restricted maximum likelihood. The variances of the fixed effects are sum A_a^2 / (k_a - 1),
    sum R_r^2 / (k_r - 1), sum (AR)_ar^2 / ((k_a - 1) (k_r - 1)), of the means over patients, less
    the part that sampling of folds and patients adds to them, the squared standard errors of their
    terms (:func:`fp4jax.analysis.stats.nested.nested_mean`). Intervals are percentiles, 95 %, of a
    bootstrap that draws folds and, in each, its patients. Estimates may be
    below 0, as any unbiased ones of what is about 0. Networks of other seeds are not drawn.

    Further rows: ``recipe in ARCH``, the variance of the recipes' means within one architecture
    (how little robust it is); ``architecture - recipe`` and ``recipe in ARCH - recipe in swin``,
    differences of the above with their intervals.

    Args:
        scores: of patients, :attr:`fp4jax.analysis.claims.collected.Collected.scores`.
        metric: a column.
        folds: how many a label must have to take part.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A row per scale and source; ``share`` of the sum of all sources, those below 0 taken for 0,
        with its interval where the source has one, NaN where nothing varies; ``labels`` and
        ``archs`` that take part: those with all folds, in every architecture. Empty with fewer than
        two of either, or two folds.
    """
    found = []
    for scale in ordered_scales(scores["scale"]):
        design = _design(scores[scores["scale"] == scale], metric, scale, folds)
        if design is None:
            continue
        spreads = _spreads(design, resamples, seed)
        random, converged = _random(design)
        total = sum(max(0.0, spreads[name][0]) for name in _FIXED) + sum(random.values())
        # Of nothing that varies there are no shares.
        total = total if total > _NOISE * np.abs(design.y).max() ** 2 else float("nan")
        rows = [{"source": n, "variance": v, "share": v / total} for n, v in random.items()]
        for name, (value, low, high) in spreads.items():
            row = {"source": name, "variance": value, "low": low, "high": high}
            if name in _FIXED:
                row |= {"share": max(0.0, value) / total}
                row |= {"share_low": max(0.0, low) / total, "share_high": max(0.0, high) / total}
            rows.append(row)
        about = {"scale": scale, "metric": metric, "converged": converged}
        about |= {"archs": ", ".join(design.archs), "labels": ", ".join(design.labels)}
        about |= {"patients": len(design.y), "folds": len(np.unique(design.folds))}
        found += [row | about for row in rows]
    return pd.DataFrame(found, columns=_COLUMNS)


# Of squares of scores: what rounding leaves of differences that are none.
_NOISE = 1e-24
_FIXED = ("architecture", "recipe", "architecture x recipe")
# Name -> formula.
_EFFECTS = {"network": "0 + C(network)", "patient": "0 + C(patient)"}
_EFFECTS["patient x architecture"] = "0 + C(own)"


class _Design(NamedTuple):
    """Patients that were tested under all labels in all architectures."""

    archs: list[str]
    labels: list[str]
    # (patients, archs, labels)
    y: np.ndarray
    # (patients,), numbers
    folds: np.ndarray


def _design(scores: Any, metric: str, scale: str, folds: int) -> _Design | None:
    archs = ordered_archs(scores["arch"])
    whole = [set(whole_labels(scores, arch, scale, folds)) for arch in archs]
    archs = [arch for arch, own in zip(archs, whole, strict=True) if own]
    whole = [own for own in whole if own]
    names = ordered_labels(set.intersection(*whole)) if whole else []
    if len(archs) < 2 or len(names) < 2:
        return None
    own = scores[scores["arch"].isin(archs) & scores["label"].isin(names)]
    parts = own.assign(fold=own["split"].map(training_set)).set_index(
        ["fold", "patient", "split", "seed", "arch", "label"]
    )[metric]
    # Seeds that all have; then their mean, and a patient once.
    wide = parts.unstack(["arch", "label"])[[(a, r) for a in archs for r in names]].dropna()
    means = wide.groupby(level=["fold", "patient"]).mean()
    patients = means.index.get_level_values("patient")
    sets = np.unique(means.index.get_level_values("fold"), return_inverse=True)[1]
    if len(np.unique(sets)) < 2 or patients.has_duplicates:
        return None
    return _Design(archs, names, means.to_numpy().reshape(-1, len(archs), len(names)), sets)


def _spreads(design: _Design, resamples: int, seed: int) -> dict[str, tuple[float, float, float]]:
    """Estimate and interval of each variance of means, and of differences of these."""
    generator = np.random.default_rng(seed)
    sizes = np.bincount(design.folds).tolist()
    often = drawn(generator, len(sizes), resamples)
    weights = np.zeros((resamples, len(design.y)))
    for fold, size in enumerate(sizes):
        weights[:, design.folds == fold] = often[:, [fold]] * drawn(generator, size, resamples)
    means = np.einsum("bp,par->bar", weights, design.y) / weights.sum(1)[:, None, None]
    found = {}
    whole = _effects(design.y.mean(0)[None], design.archs)
    of_patients, of_draws = (_effects(y, design.archs) for y in (design.y, means))
    for name, (effects, freedom) in of_draws.items():
        plain = float((whole[name][0] ** 2).sum() / freedom)
        draws = (effects**2).sum(-1) / freedom
        # What sampling adds to a sum of squares: the squared errors of its terms; to draws as much
        # again as they are larger.
        errors = [nested_mean(e, design.folds).error for e in of_patients[name][0].T]
        added = float(np.square(errors).sum()) / freedom
        found[name] = (plain - added, draws - (draws.mean() - plain) - added)
    found |= {f"{a} - {b}": _minus(found[a], found[b]) for a, b in _compared(design.archs)}
    spreads = {}
    for name, (value, draws) in found.items():
        low, high = map(float, np.percentile(draws, [2.5, 97.5]))
        spreads[name] = (value, low, high)
    return spreads


def _effects(y: np.ndarray, archs: list[str]) -> dict[str, tuple[np.ndarray, int]]:
    """(n, effects) of each source and its degrees of freedom, of (n, archs, labels)."""
    every = y.mean((1, 2))[:, None]
    of_archs, of_labels = y.mean(2) - every, y.mean(1) - every
    own = y - every[..., None] - of_archs[:, :, None] - of_labels[:, None]
    a, r = y.shape[1] - 1, y.shape[2] - 1
    values = ((of_archs, a), (of_labels, r), (own.reshape(len(y), -1), a * r))
    found = dict(zip(_FIXED, values, strict=True))
    within = y - y.mean(2, keepdims=True)
    return found | {f"recipe in {arch}": (within[:, i], r) for i, arch in enumerate(archs)}


def _compared(archs: list[str]) -> list[tuple[str, str]]:
    """Sources whose difference is of interest."""
    others = [arch for arch in archs if arch != "swin"] if "swin" in archs else []
    return [_FIXED[:2], *((f"recipe in {arch}", "recipe in swin") for arch in others)]


def _minus(a: tuple[float, np.ndarray], b: tuple[float, np.ndarray]) -> tuple[float, np.ndarray]:
    return a[0] - b[0], a[1] - b[1]


def _random(design: _Design) -> tuple[dict[str, float], bool]:
    """Variances of the random effects, and whether the fit converged."""
    with Extra("study"):
        from statsmodels.formula.api import mixedlm
        from threadpoolctl import threadpool_limits

    own = design.y - design.y.mean(0)
    if np.square(own).max() <= _NOISE * np.square(design.y).max():
        # All is fixed effects, which no likelihood is defined for.
        return dict.fromkeys(("fold", *_EFFECTS, "residual"), 0.0), True
    patients, archs, labels = np.indices(design.y.shape).reshape(3, -1)
    rows: Any = pd.DataFrame({"y": design.y.ravel(), "arch": archs, "label": labels})
    rows["fold"], rows["patient"] = design.folds[patients], patients
    rows["own"], rows["network"] = patients * 100 + archs, archs * 100 + labels
    # Within one scale, to a unit standard deviation: the optimizer's tolerances are absolute.
    spread = float(rows["y"].std()) or 1.0
    rows["y"] /= spread
    # Thousands of small systems: threads that wait for each other take most of the time.
    with threadpool_limits(1), warnings.catch_warnings():
        # That a variance is 0 is an answer; whether it converged is returned.
        warnings.simplefilter("ignore")
        model = mixedlm(
            "y ~ C(arch) * C(label)", rows, groups="fold", re_formula="1", vc_formula=_EFFECTS
        )
        fit = model.fit(method=["bfgs", "lbfgs", "powell"])
    found = {"fold": float(np.asarray(fit.cov_re)[0, 0])}
    found |= dict(zip(model.exog_vc.names, map(float, fit.vcomp), strict=True))
    found["residual"] = float(fit.scale)
    return {name: value * spread**2 for name, value in found.items()}, bool(fit.converged)
