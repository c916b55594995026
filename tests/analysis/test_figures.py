"""Figures: what they show of fabricated runs, and that they refuse what they cannot show."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest

from fp4jax.analysis import figures
from fp4jax.analysis.figures import panels, style
from fp4jax.analysis.figures.scores import counts_of, precision_at, reliability
from fp4jax.analysis.results import read_runs, table
from fp4jax.analysis.stats import relative
from fp4jax.ops.recipe import recipes
from fp4jax.train import Volumes
from tests import fabricated_runs as fabricated

PAPER = list(recipes()[:8])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return read_runs(fabricated.study(root, scales=("500k", "4m"), seeds=(1, 2)))


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    root = tmp_path_factory.mktemp("folds")
    labels = ("baseline", "ptq full", "qad full")
    fabricated.study(root, archs=("cnn",), labels=labels, splits=("fold0", "fold1"), seeds=(1,))
    return read_runs(root)


def pixels(figure) -> np.ndarray:
    import matplotlib.image

    image = matplotlib.image.imread(io.BytesIO(figures.png(figure)))
    assert image[..., :3].std() > 0.01
    return image


def of(runs, arch, scale=None):
    return [r for r in runs if r.config.arch == arch and scale in (None, r.config.scale)]


def percents(labels, seeds=3) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arch": arch, "scale": scale, "label": label, "split": "holdout", "seed": seed}
            | {"value": 0.8, "percent": 100 - 2.0 * i - 0.1 * seed}
            for arch in ("cnn", "swin")
            for scale in ("4m", "500k", "15m")
            for i, label in enumerate(labels)
            for seed in range(seeds)
        ]
    )


def test_sensitivity_has_the_papers_order_rows_and_shades():
    figure = figures.recipe_sensitivity(percents(PAPER))
    assert figure is not None
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"{a} {s}" for a in ("Swin", "CNN") for s in ("500K", "4M", "15M")]
    ticks = [text.get_text() for text in figure.axes[3].get_xticklabels()]
    assert [text.partition("(")[2] for text in ticks] == [f"{i})" for i in (2, 7, 3, 6, 5, 4, 1)]
    shaded = [patch.get_x() + 0.5 for patch in figure.axes[0].patches]
    np.testing.assert_allclose(shaded, [3, 4, 5])
    low, high = figure.axes[0].get_ylim()
    assert low < 86
    assert high >= 105
    assert pixels(figure).shape[1] <= 1200


def test_sensitivity_shows_each_run_and_the_mean():
    figure = figures.recipe_sensitivity(percents(["baseline", "full"]))
    dots, mean = figure.axes[0].lines[:2]
    np.testing.assert_allclose(dots.get_ydata(), [98.0, 97.9, 97.8])
    np.testing.assert_allclose(mean.get_ydata(), 97.9)


def test_sensitivity_of_one_run_has_no_interval():
    figure = figures.recipe_sensitivity(percents(["baseline", "full"], seeds=1))
    assert not figure.axes[0].containers
    assert figures.recipe_sensitivity(percents(["baseline"])) is None


def test_wide_intervals_do_not_squeeze_the_dots():
    data = percents(["full"], seeds=2)
    data.loc[::2, "percent"] = 80.0
    figure = figures.recipe_sensitivity(data)
    low, high = figure.axes[0].get_ylim()
    assert high - low < 90


def test_folds_are_averaged_over_seeds(folds):
    figure = figures.cross_validation(table(folds))
    assert figure is not None
    rows = table(folds)
    expected = rows.groupby("label")["test_auprc"].mean()
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [expected[x] for x in ("baseline", "ptq full", "qad full")])
    pixels(figure)
    twice = pd.concat([rows, rows.assign(seed=2, test_auprc=rows["test_auprc"] + 0.1)])
    figure = figures.cross_validation(twice)
    np.testing.assert_allclose(figure.axes[0].patches[0].get_height(), heights[0] + 0.05)
    assert len(figure.axes[0].lines[0].get_ydata()) == 2


def test_holdout_has_no_folds(runs):
    assert figures.cross_validation(table(runs)) is None


def test_multi_seed_bars_are_means(runs):
    figure = figures.multi_seed(table(runs))
    rows = table(of(runs, "swin", "500k"))
    expected = rows.groupby("label")["test_auprc"].mean()
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [expected[x] for x in style.ordered_labels(expected.index)])
    assert figures.multi_seed(table(runs).assign(test_auprc=np.nan)) is None


def test_architectures_side_by_side_share_limits():
    data = percents(["baseline", "full"])
    data = data[data["scale"] == "4m"].assign(test_auprc=0.7)
    data.loc[data["arch"] == "cnn", "test_auprc"] = 0.3
    figure = figures.multi_seed(data)
    assert len(figure.axes) == 2
    for axis in figure.axes:
        low, high = axis.get_ylim()
        assert low < 0.3
        assert high > 0.7


def test_training_curves_average_runs_that_reached_the_epoch(runs, tmp_path):
    own = [r for r in of(runs, "cnn", "4m") if r.label == "baseline"]
    figure = figures.training_curves(own)
    losses = [[record["val_loss"] for record in run.history()] for run in own]
    mean = figure.axes[1].lines[-1]
    np.testing.assert_allclose(mean.get_ydata(), np.mean(losses, 0))
    assert figure.axes[0].get_title() == "training loss"
    pixels(figure)
    short = tmp_path / "short"
    fabricated.run(short, fabricated.cohort(), epochs=2, arch="cnn", scale="4m", seed=9)
    figure = figures.training_curves([*own, *read_runs(short)])
    np.testing.assert_allclose(figure.axes[1].lines[-1].get_ydata()[2:], np.mean(losses, 0)[2:])


def test_training_of_volumes_has_the_dice_of_each_region(tmp_path):
    fabricated.run(
        tmp_path, fabricated.cohort(), data=Volumes(patch_size=(32, 32, 32)), arch="unet"
    )
    titles = [axis.get_title() for axis in figures.training_curves(read_runs(tmp_path)).axes]
    assert titles[:4] == ["training loss", "validation Dice", "gradient norm", "learning rate"]
    assert titles[4:] == [f"validation Dice, {name}" for name in ("tumour_core", "whole_tumour")]


def test_training_of_several_groups_is_refused(runs):
    with pytest.raises(ValueError, match="give runs of one"):
        figures.training_curves(runs)


def test_ptq_has_no_training_curve(folds):
    assert figures.training_curves([r for r in folds if r.label == "ptq full"]) is None
    figure = figures.training_curves(folds)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["baseline (0)", "qad full (1)"]


def test_precision_at_recall_integrates_to_the_average_precision(runs):
    run = runs[0]
    counts = counts_of(run)
    recalls = (np.arange(20_000) + 0.5) / 20_000
    area = precision_at(counts, recalls).mean()
    assert abs(area - run.summary["test"]["auprc"]) < 2e-3


def test_reliability_is_that_of_the_calibration_error(runs):
    run = runs[0]
    bins = reliability(counts_of(run))
    assert bins.pixels.sum() == 6 * 32 * 32
    assert abs(bins.error - run.summary["test"]["ece"]) < 1e-3


def test_precision_recall_has_auprc_in_the_legend(runs):
    figure = figures.precision_recall_curves(runs)
    assert len(figure.axes) == 4
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    own = [r for r in of(runs, "swin", "500k") if r.label == "baseline"]
    mean = np.mean([r.summary["test"]["auprc"] for r in own])
    assert legend[0] == f"baseline (0): {mean:.3f}"
    pixels(figure)


def test_calibration_has_counts_below(runs):
    figure = figures.reliability_diagram(runs)
    assert len(figure.axes) == 8
    assert figure.axes[1].get_yscale() == "log"
    pixels(figure)


def test_runs_without_scores_have_no_curves(tmp_path):
    path = fabricated.run(tmp_path, fabricated.cohort(), arch="cnn")
    for name in ("test_scores.npz", "examples.npz"):
        (path / name).unlink()
    old = read_runs(tmp_path)
    assert figures.precision_recall_curves(old) is None
    assert figures.reliability_diagram(old) is None
    assert figures.prediction_grid(old) is None
    assert figures.per_patient(old) is None


def test_scatter_pairs_patients_with_the_baselines_run(runs):
    figure = figures.per_patient(runs)
    points = figure.axes[0].lines[1]
    by_label = {}
    for run in of(runs, "swin", "500k"):
        by_label.setdefault(run.label, []).append(run.summary["test_patients"])
    label = style.ordered_labels(by_label)[1]
    for data, name in ((points.get_xdata(), "baseline"), (points.get_ydata(), label)):
        means = [np.mean([d[p] for d in by_label[name]]) for p in sorted(by_label[name][0])]
        np.testing.assert_allclose(data, means)
    pixels(figure)


@pytest.mark.parametrize("labels", [("baseline",), (*PAPER, "ptq full")])
def test_predictions_of_one_to_nine_labels(tmp_path, labels):
    fabricated.study(tmp_path, archs=("swin",), labels=labels, seeds=(1,))
    figure = figures.prediction_grid(read_runs(tmp_path))
    assert len(figure.axes) == 3 * (2 + len(labels))
    assert pixels(figure).shape[1] <= 1250


def test_predictions_stack_scales_and_need_one_architecture(runs):
    figure = figures.prediction_grid(of(runs, "cnn"))
    assert len(figure.axes) == 2 * 3 * (2 + 3)
    names = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert names[0] == "CNN 500K\nbest"
    assert names[-1] == "CNN 4M\nworst"
    with pytest.raises(ValueError, match="one architecture"):
        figures.prediction_grid(runs)


def test_predictions_with_undefined_dice(runs):
    changed = [
        dataclasses.replace(
            r, summary=r.summary | {"test_patients": r.summary["test_patients"] | {first: None}}
        )
        for r in of(runs, "cnn", "4m")
        for first in [min(r.summary["test_patients"])]
    ]
    figure = figures.prediction_grid(changed)
    assert len(figure.axes) == 2 * (2 + 3)
    assert figures.per_patient(changed) is not None


def test_looks_differ():
    looks = [style.look(label) for label in recipes()]
    assert len({(x.colour, x.marker, str(x.line)) for x in looks}) == len(looks)
    ptq, qad, qat = (style.look(label) for label in ("ptq sr", "qad sr", "sr"))
    assert len({str(x.line) for x in (ptq, qad, qat)}) == 3
    assert len({x.fill for x in (ptq, qad, qat)}) == 3
    assert style.look("my own recipe").colour


def test_places_of_one_scale_lie_side_by_side():
    assert panels.places([("cnn", "4m"), ("swin", "4m")])[:2] == (1, 2)
    assert panels.places([("cnn", "4m"), ("cnn", "500k")])[:2] == (1, 2)
    assert panels.places([("cnn", "4m"), ("swin", "500k")])[:2] == (2, 2)


def test_save_replaces_and_repeats_its_bytes(tmp_path, runs):
    path = tmp_path / "figure.png"
    path.write_text("old")
    figures.save(figures.multi_seed(table(runs)), path)
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG")
    figures.save(figures.multi_seed(table(runs)), path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]
    assert figures.data_url(b"ab") == "data:image/png;base64,YWI="


def test_figures_leave_pyplot_alone(runs):
    import sys

    assert relative(table(runs))["percent"].notna().all()
    assert figures.multi_seed(table(runs)) is not None
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
