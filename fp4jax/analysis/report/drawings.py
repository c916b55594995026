"""The figures of a report: file name, caption, figure."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fp4jax.analysis import figures
from fp4jax.analysis.figures.scores import by_group
from fp4jax.analysis.figures.style import BASELINE, ordered_archs, ordered_scales, title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fp4jax.analysis.results import RunResult


class Drawing(NamedTuple):
    """A figure with the name of its file and what is to be seen."""

    name: str
    caption: str
    figure: "Figure"


def comparisons(table: "pd.DataFrame", relative: "pd.DataFrame") -> Iterator[Drawing]:
    """Figures of the headline metric."""
    runs = "Bars are means of test AUPRC, dots runs, whiskers 95 % t intervals. The axis may begin "
    yield from _drawn("seeds", runs + "above 0.", figures.multi_seed(table))
    yield from _drawn(
        "recipe_sensitivity",
        "Test AUPRC as per cent of the same seed's baseline: dots are runs, bars means, whiskers "
        "95 % t intervals. Shaded: recipes with stochastic rounding or 2D weight blocks.",
        None if relative.empty else figures.recipe_sensitivity(relative),
    )
    yield from _drawn(
        "cross_validation",
        "Cross-validation: bars are means over folds, dots folds, whiskers standard deviations. "
        "The axis may begin above 0.",
        figures.cross_validation(table),
    )


def curves(runs: "Sequence[RunResult]") -> Iterator[Drawing]:
    """Figures of scores: precision over recall, calibration, single patients."""
    scores = by_group(runs)
    yield from _drawn(
        "precision_recall",
        "Precision over recall of all pixels (or voxels) of the test patients; means over runs.",
        figures.precision_recall_curves(runs, scores),
    )
    yield from _drawn(
        "calibration",
        "Reliability: share of lesion pixels in 15 bins of the predicted probability, and the "
        "number of pixels in each bin. Below the diagonal the model is overconfident. "
        "ECE: expected calibration error, mean over runs.",
        figures.reliability_diagram(runs, scores),
    )
    yield from _drawn(
        "patients",
        "Volumetric Dice of each test patient (of volumes the mean over its regions), mean over "
        "runs: above the diagonal the recipe does better than the baseline.",
        figures.per_patient(runs),
    )


def training(runs: "Sequence[RunResult]") -> Iterator[Drawing]:
    """Training curves of each architecture and scale."""
    for arch in ordered_archs(run.config.arch for run in runs):
        of_arch = [run for run in runs if run.config.arch == arch]
        for scale in ordered_scales(run.config.scale for run in of_arch):
            yield from _drawn(
                f"training_{arch}_{scale}",
                f"Training of {title(arch, scale)}: thick lines are means over runs, thin lines "
                "runs.",
                figures.training_curves([r for r in of_arch if r.config.scale == scale]),
            )


def predictions(runs: "Sequence[RunResult]") -> Iterator[Drawing]:
    """Images of patients: not to be passed on where the data's licence forbids it."""
    for arch in ordered_archs(run.config.arch for run in runs):
        yield from _drawn(
            f"predictions_{arch}",
            f"Predictions of {title(arch)} for the {BASELINE}'s best, median and worst test "
            "patient, each at its run's threshold, on the slice with the largest lesion: hits "
            "green, false alarms orange, misses magenta.",
            figures.prediction_grid([run for run in runs if run.config.arch == arch]),
        )


def _drawn(name: str, caption: str, figure: "Figure | None") -> Iterator[Drawing]:
    if figure is not None:
        yield Drawing(name, caption, figure)
