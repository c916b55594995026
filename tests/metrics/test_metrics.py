"""Metrics against the reference's values, scikit-learn, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import metrics
from fp4jax.metrics.calibration import Calibration
from fp4jax.metrics.overlap import ImageSums

FILE = "ref_losses_metrics.npz"

# The reference's names in the golden file, and ours.
VALIDATION = {
    "recall": "recall",
    "f2_score": "f2_score",
    "dice": "dice_ref",
    "auprc": "auprc",
    "precision": "precision",
    "iou": "iou",
    "auc": "auc",
    "ece": "ece",
    "logit_mean": "logit_mean",
    "logit_std": "logit_std",
    "prob_entropy": "prob_entropy",
    "tp": "tp",
    "fp": "fp",
    "fn": "fn",
    "tn": "tn",
}
ALL_METRICS = {
    "recall": "hard_recall",
    "f2_score": "hard_f2_score",
    "dice": "dice_global",
    "precision": "hard_precision",
    "iou": "hard_iou",
    "fpr": "fpr",
    "fnr": "fnr",
}
PATIENTS = ["a", "a", "b", "b"]


@pytest.fixture(scope="module")
def split(golden):
    g = golden(FILE)
    return g["logits"][:, 0], g["mask01"], g["probs"][:, 0]


@pytest.fixture(scope="module")
def report(split):
    logits, masks, _ = split
    return metrics.evaluate(logits, masks, PATIENTS, ref_batch_size=3)


def random_split(seed, *shape, positives=0.05, spread=2.0):
    """Logits that rank positives above negatives on the whole, and masks."""
    generator = np.random.default_rng(seed)
    masks = (generator.random(shape) < positives).astype(np.uint8)
    logits = generator.normal(0, spread, shape) - 4 + 4.0 * masks
    return logits.astype(np.float32), masks


@pytest.mark.parametrize("name", VALIDATION)
def test_report_is_the_references(name, golden, report):
    expected = golden(FILE)[f"metric.run_validation_inference.{name}"]
    # The exact ROC-AUC of the reference lies on float32 probabilities as well.
    np.testing.assert_allclose(report[VALIDATION[name]], expected, rtol=2e-6)


@pytest.mark.parametrize("name", ALL_METRICS)
def test_hard_metrics_are_the_references(name, golden, report):
    expected = golden(FILE)[f"metric.compute_all_metrics.{name}"]
    np.testing.assert_allclose(report[ALL_METRICS[name]], expected, rtol=1e-6)


def test_dice_is_the_mean_over_images(golden, report):
    expected = golden(FILE)["metric.dice_true_per_image_mean"]
    np.testing.assert_allclose(report["dice"], expected, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.05, 0.25, 0.75])
def test_thresholds_are_the_references(threshold, golden, split):
    g = golden(FILE)
    found = metrics.evaluate(split[2], split[1], kind="probabilities", threshold=threshold)
    for name in ("recall", "precision", "f2_score", "iou"):
        expected = g[f"metric.{name}_metric@{threshold}"]
        np.testing.assert_allclose(found[f"hard_{name}"], expected, rtol=1e-6)


def test_ties_and_curves_are_the_references(golden, split):
    g = golden(FILE)
    _, masks, p = split
    tied = np.round(p / 0.05) * 0.05
    expected = g["metric.compute_auprc_ties(p rounded to 0.05)"]
    np.testing.assert_allclose(metrics.average_precision(tied, masks), expected, rtol=1e-9)
    expected = g["metric.sklearn.roc_auc_ties"]
    np.testing.assert_allclose(metrics.roc_auc(tied, masks), expected, rtol=1e-9)
    ranking = metrics.Ranking.of(np.clip(p, np.float32(1e-7), np.float32(1 - 1e-7)), masks)
    curve = ranking.pr_curve()
    np.testing.assert_allclose(curve.thresholds, g["pr_curve.thresholds"], rtol=1e-12)
    np.testing.assert_allclose(curve.x, g["pr_curve.recall"], rtol=1e-6)
    np.testing.assert_allclose(curve.y, g["pr_curve.precision"], rtol=1e-6)
    # The reference clips for this curve but not for that one.
    curve = metrics.Ranking.of(p, masks).roc_curve()
    np.testing.assert_allclose(curve.x, g["roc_curve.fpr"], rtol=1e-6)
    np.testing.assert_allclose(curve.y, g["roc_curve.tpr"], rtol=1e-6)
    area = np.sum((curve.x[:-1] - curve.x[1:]) * (curve.y[:-1] + curve.y[1:]) / 2)
    np.testing.assert_allclose(area, g["metric.compute_roc_auc"], rtol=1e-6)


def test_calibration_and_divergence_are_the_references(golden, split):
    g = golden(FILE)
    _, masks, p = split
    for bins in (10, 15):
        found = metrics.expected_calibration_error(p, masks, bins)
        np.testing.assert_allclose(found, g[f"metric.utils.compute_ece_{bins}bins"], rtol=1e-5)
    teacher = metrics.probabilities(g["teacher_logits"][:, 0])
    for t in (1, 2):
        expected = g[f"metric.utils.kl_T{t}(student=probs,baseline=teacher,clipped 1e-7)"]
        np.testing.assert_allclose(
            metrics.kl_from_baseline(p, teacher, float(t)), expected, rtol=1e-5
        )


def test_sweep_is_the_references(golden, split):
    g = golden(FILE)
    _, masks, p = split
    teacher = metrics.probabilities(g["teacher_logits"][:, 0])
    sweeps = [metrics.threshold_sweep(q, masks) for q in (p, teacher)]
    for sweep, recipe in zip(sweeps, (1, 5), strict=True):
        np.testing.assert_allclose(sweep.thresholds, g["sweep.thresholds"], rtol=1e-12)
        np.testing.assert_allclose(sweep.f2, g[f"sweep.qat_recipe{recipe}_f2"], rtol=1e-6)
    mean = metrics.mean_sweep(sweeps)
    np.testing.assert_allclose(mean.f2, g["sweep.avg_qat_f2"], rtol=1e-6)
    np.testing.assert_allclose(mean.best_threshold, g["metric.sweep.best_qat_threshold"])
    np.testing.assert_allclose(mean.best_f2, g["metric.sweep.best_qat_f2"], rtol=1e-6)


@pytest.mark.parametrize("decimals", [0, 1, 2, 7])
@pytest.mark.parametrize("positives", [0.001, 0.3, 0.999])
def test_ranking_is_scikit_learns(decimals, positives):
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, masks = random_split(decimals, 3000, positives=positives)
    scores = np.round(logits, decimals)
    np.testing.assert_allclose(
        metrics.average_precision(scores, masks),
        sklearn.average_precision_score(masks, scores),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        metrics.roc_auc(scores, masks), sklearn.roc_auc_score(masks, scores), rtol=1e-12
    )


@pytest.mark.parametrize("bins", [16, 1 << 8, 1 << 14])
@pytest.mark.parametrize(("positives", "spread"), [(0.01, 2.0), (0.5, 0.05), (0.2, 8.0)])
def test_histogram_bounds_hold(bins, positives, spread):
    logits, masks = random_split(bins, 4, 50, 50, positives=positives, spread=spread)
    # Saturated and tied pixels as well.
    logits[0] = np.round(logits[0])
    logits[1, :5] = [[-40], [40], [0], [16], [-16]]
    add = jax.jit(metrics.Histogram.add)
    histogram = metrics.Histogram.zeros(bins)
    for i in (0, 2):
        histogram = add(histogram, jnp.asarray(logits[i : i + 2]), jnp.asarray(masks[i : i + 2]))
    report = metrics.evaluate(logits, masks)
    found = {
        "auprc": histogram.average_precision(),
        "auc": histogram.roc_auc(),
        "ece": histogram.calibration_error(),
    }
    for name, bounds in found.items():
        # Clipping and rounding of p: 1e-7.
        assert bounds.low - 2e-7 <= report[name] <= bounds.high + 2e-7, name
        assert bounds.low <= bounds.value <= bounds.high, name
        assert abs(bounds.value - report[name]) <= bounds.error + 2e-7, name
    # An edge of the calibration bins or the sweep is exact, but for pixels within its rounding.
    np.testing.assert_allclose(
        histogram.sweep().f2,
        metrics.threshold_sweep(metrics.probabilities(logits), masks).f2,
        rtol=1e-6,
    )
    if bins == 1 << 14:
        assert abs(found["auprc"].value - report["auprc"]) < 1e-3
        for name, value in histogram.moments().items():
            np.testing.assert_allclose(value, report[name], rtol=2e-3, atol=2e-3)


def test_histograms_bounds_enclose_every_order_inside_an_interval():
    """Two scores per interval at random: the exact value moves, the counts and bounds do not."""
    generator = np.random.default_rng(0)
    place = generator.integers(-6, 6, 400)
    masks = (generator.random(400) < 0.1 + 0.05 * (place > 0)).astype(np.uint8)[None]
    histogram = metrics.Histogram.zeros(16).add(
        jnp.asarray((2.0 * place + 1)[None], jnp.float32), jnp.asarray(masks)
    )
    bounds = histogram.average_precision()
    for good in (-1, 0, 1):
        for _ in range(20):
            inside = generator.random(400) * 0.4 + good * (masks[0] - 0.5)
            scores = (2.0 * place + 1 + inside)[None]
            exact = metrics.average_precision(scores, masks)
            assert bounds.low <= exact <= bounds.high
    assert 0.005 < bounds.error < 0.2


def test_histogram_merges_pads_and_counts_invalid_pixels():
    logits, masks = (jnp.asarray(a) for a in random_split(0, 4, 8, 8))
    whole = metrics.Histogram.zeros(256).add(logits, masks)
    parts = [metrics.Histogram.zeros(256).add(logits[i::2], masks[i::2]) for i in (0, 1)]
    np.testing.assert_array_equal(parts[0].merge(parts[1]).counts, whole.counts)
    assert int(whole.counts.sum()) == logits.size
    padded = jnp.concatenate([logits, jnp.full((2, 8, 8), jnp.nan)])
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    padded_masks = jnp.concatenate([masks, masks[:2]])
    with_padding = metrics.Histogram.zeros(256).add(padded, padded_masks, weights)
    np.testing.assert_array_equal(with_padding.counts, whole.counts)
    assert not int(with_padding.invalid)
    broken = whole.add(padded, padded_masks)
    assert int(broken.invalid) == 128
    assert np.isnan(broken.average_precision().value)
    with pytest.raises(ValueError, match="equal bins"):
        whole.merge(metrics.Histogram.zeros(128))
    with pytest.raises(ValueError, match="power of two"):
        metrics.Histogram.zeros(100)


def test_accumulated_batches_give_the_report():
    logits, masks = random_split(3, 10, 16, 16)
    masks[2] = 0
    ids = np.array(list("aabbbcccdd"))
    exact = metrics.evaluate(logits, masks, ids)
    step = jax.jit(metrics.accumulate, donate_argnums=0)
    state = metrics.zeros(10)
    for start in (0, 4, 8):
        index = np.resize(np.arange(start, min(start + 4, 10)), 4)
        weights = jnp.asarray(np.arange(start, start + 4) < 10, jnp.float32)
        batch = jnp.asarray(logits[index])[..., None], jnp.asarray(masks[index])
        state = step(state, *batch, weights)
    assert step._cache_size() == 1
    found = metrics.summarize(state, ids)
    for name, value in exact.items():
        tolerance = 1e-3 if name in ("auprc", "auc", "ece", "logit_std", "logit_mean") else 1e-5
        np.testing.assert_allclose(found[name], value, rtol=tolerance, err_msg=name)
    for name in ("auprc", "auc", "ece"):
        assert found[f"{name}_low"] - 2e-7 <= exact[name] <= found[f"{name}_high"] + 2e-7
    # ... and the histogram from the host's chunks is the same.
    streamed = metrics.evaluate(logits, masks, ids, exact=False)
    np.testing.assert_allclose(streamed["auprc"], found["auprc"], rtol=1e-6)
    assert streamed["auprc_low"] <= exact["auprc"] + 2e-7


def test_lanes_accumulate_side_by_side():
    logits, masks = (jnp.asarray(a) for a in random_split(4, 6, 8, 8))
    lanes = jnp.stack([logits, logits * 0.5])
    states = jax.tree.map(lambda a: jnp.stack([a, a]), metrics.zeros(6, 256))
    states = jax.jit(jax.vmap(metrics.accumulate, (0, 0, None)))(states, lanes, masks)
    for i in range(2):
        alone = jax.jit(metrics.accumulate)(metrics.zeros(6, 256), lanes[i], masks)
        lane = metrics.summarize(jax.tree.map(lambda a, i=i: a[i], states))
        for name, value in metrics.summarize(alone).items():
            np.testing.assert_allclose(lane[name], value, rtol=1e-6, err_msg=name)


def test_dice_per_slice_positive_slice_and_patient():
    masks = np.zeros((4, 2, 2), np.uint8)
    masks[0, 0], masks[1, 0, 0] = 1, 1
    p = np.full((4, 2, 2), 0.1, np.float32)
    # Slice 0: one of two found. 1: missed. 2: nothing there, nothing found. 3: a false positive.
    p[0, 0, 0] = p[3, 1, 1] = 0.9
    report = metrics.evaluate(p, masks, ["x", "x", "y", "y"], kind="probabilities")
    assert report["hard_dice"] == pytest.approx((2 / 3 + 0 + 1 + 0) / 4)
    assert report["hard_dice_positive"] == pytest.approx((2 / 3 + 0) / 2)
    # x: tp 1, predicted 1, true 3; y: tp 0, predicted 1, true 0.
    assert report["hard_dice_patient"] == pytest.approx((2 / 4 + 0) / 2)
    assert metrics.patient_dice(p, masks, ["x", "x", "y", "y"]) == {"x": 0.5, "y": 0.0}
    assert report["hard_dice_global"] == pytest.approx(2 / 5)
    soft = [2 * 1.0 / (1.2 + 2), 2 * 0.1 / (0.4 + 1)]
    assert report["dice_positive"] == pytest.approx(np.mean(soft), abs=1e-5)
    assert report["dice"] == pytest.approx(np.sum(soft) / 4, abs=1e-5)
    assert report["dice_patient"] == pytest.approx((2 * 1.1 / (1.6 + 3) + 0) / 2, abs=1e-5)
    assert (report["images"], report["positive_images"], report["patients"]) == (4, 2, 2)
    assert report["positive_share"] == pytest.approx(3 / 16)


def test_undefined_cases():
    logits = np.full((2, 4, 4), -3.0, np.float32)
    empty, full = np.zeros((2, 4, 4), np.uint8), np.ones((2, 4, 4), np.uint8)
    state = metrics.accumulate(metrics.zeros(2), jnp.asarray(logits), jnp.asarray(empty))
    for report in (metrics.evaluate(logits, empty), metrics.summarize(state)):
        assert all(np.isnan(report[name]) for name in ("auprc", "auc", "dice_positive"))
        assert np.isnan(report["hard_dice_positive"])
        assert report["recall"] == report["f2_score"] == report["hard_iou"] == 0
        assert report["hard_dice"] == 1
        assert report["dice"] < 1e-5
        assert np.isfinite(report["ece"])
    report = metrics.evaluate(logits, full)
    assert report["auprc"] == 1
    assert np.isnan(report["auc"])
    # All pixels tied: precision is the share of positives.
    half = empty.copy()
    half[0] = 1
    assert metrics.evaluate(logits, half)["auprc"] == pytest.approx(0.5)
    nothing = metrics.summarize(metrics.zeros(3))
    assert nothing["images"] == 0
    assert np.isnan([nothing[n] for n in ("auprc", "dice", "ece", "logit_mean")]).all()
    assert np.isnan(list(Calibration().report().values())).all()


def test_extreme_logits_are_finite():
    logits = np.array([[-1e30, 1e30, -np.inf, np.inf, 0.0, 88.0, -104.0, 1e-30]], np.float32)
    masks = np.array([[0, 1, 1, 0, 1, 0, 1, 0]])
    report = metrics.evaluate(logits, masks)
    assert np.isfinite(list(report.values())).all()
    state = metrics.accumulate(metrics.zeros(1), jnp.asarray(logits), jnp.asarray(masks))
    streamed = metrics.summarize(state)
    assert np.isfinite(list(streamed.values())).all()
    assert streamed["auprc_low"] <= report["auprc"] <= streamed["auprc_high"]


def test_dtypes_and_chunks_agree(monkeypatch):
    logits, masks = random_split(5, 6, 8, 8)
    logits = np.round(logits * 8) / 8
    expected = metrics.evaluate(logits, masks)
    same = [
        (logits[..., None], masks.astype(bool)),
        (logits.astype(np.float16), masks.astype(np.float32)),
        (jnp.asarray(logits, jnp.bfloat16), jnp.asarray(masks)),
        (logits.astype(np.float64), masks.astype(np.int64)),
    ]
    for scores, labels in same:
        found = metrics.evaluate(scores, labels)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
    monkeypatch.setattr("fp4jax.metrics.report.CHUNK", 100)
    found = metrics.evaluate(logits, masks)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


def test_refusals():
    logits, masks = random_split(0, 2, 4, 4)
    with pytest.raises(ValueError, match="do not fit masks of shape"):
        metrics.evaluate(logits, masks[0])
    with pytest.raises(ValueError, match="divide masks stored as 0 and 255"):
        metrics.evaluate(logits, masks * 255)
    with pytest.raises(ValueError, match="1 scores are NaN"):
        metrics.evaluate(np.where(np.arange(32).reshape(2, 4, 4) == 3, np.nan, logits), masks)
    with pytest.raises(ValueError, match="kind is wrong"):
        metrics.evaluate(logits, masks, kind="probabilities")
    with pytest.raises(ValueError, match="allowed: logits, probabilities"):
        metrics.evaluate(logits, masks, kind="scores")
    with pytest.raises(ValueError, match="one id per image"):
        metrics.evaluate(logits, masks, ["a"])
    with pytest.raises(ValueError, match="threshold is 1"):
        metrics.evaluate(logits, masks, threshold=1.0)
    with pytest.raises(ValueError, match="scores are NaN"):
        metrics.average_precision(np.array([np.nan, 1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="same thresholds"):
        metrics.mean_sweep([])
    with pytest.raises(ValueError, match="batch_size"):
        metrics.mean_of_batch_means(np.ones(3), 0)
    with pytest.raises(ValueError, match="temperature"):
        metrics.kl_from_baseline(np.ones(3), np.ones(3), 0.0)
    state = metrics.zeros(1)
    state = metrics.accumulate(state, jnp.asarray(logits), jnp.asarray(masks))
    with pytest.raises(ValueError, match="give 2"):
        metrics.summarize(state)
    with pytest.raises(ValueError, match=r"give shape \(2,\)"):
        metrics.accumulate(state, jnp.asarray(logits), jnp.asarray(masks), jnp.ones(3))
    with pytest.raises(ValueError, match="do not fit a mask"):
        metrics.accumulate(state, jnp.asarray(logits), jnp.asarray(masks[:, :1]))


def test_image_sums_of_patients_add_up():
    logits, masks = random_split(1, 5, 4, 4)
    sums = ImageSums.of(metrics.probabilities(logits).reshape(5, -1), masks.reshape(5, -1), 0.5)
    volumes = sums.by_patient(["b", "a", "b", "a", "c"])
    np.testing.assert_allclose(
        volumes.py, [sums.py[[1, 3]].sum(), sums.py[[0, 2]].sum(), sums.py[4]]
    )
    assert volumes.pixels.tolist() == [32, 32, 16]


def test_scores_do_not_depend_on_the_threads_of_blas():
    """A study may run on machines of several sizes; Ray gives a task one thread."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 3, (4, 64, 64)), jnp.float32)
    masks = jnp.asarray(rng.random((4, 64, 64)) < 0.2)
    one = metrics.Histogram.zeros(1 << 15).add(logits, masks)
    found = []
    for threads in (1, 2):
        with threadpoolctl.threadpool_limits(threads, "blas"):
            moments = tuple(one.moments().values())
            found.append((moments, one.roc_auc(), one.calibration_error()))
    assert found[0] == found[1]
