"""Metrics of cases in mm against brute force, MONAI and definitions; streamed metrics of labels."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import metrics

pytest.importorskip("scipy")

NAMES = ("whole", "core", "enhancing")
SPACINGS = [(1.0, 1.0, 1.0), (0.9, 1.1, 3.0)]


def blob(generator, shape, share=0.2) -> np.ndarray:
    """A mask of some connected pieces that also touches the border."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(generator.normal(size=shape), 2, mode="reflect")
    return smooth > np.quantile(smooth, 1 - share)


def brute_surface(mask: np.ndarray) -> np.ndarray:
    """Positions of the mask's voxels with a neighbour outside of it."""
    padded = np.pad(mask, 1)
    found = [
        place
        for place in np.argwhere(mask)
        for axis in range(mask.ndim)
        for step in (-1, 1)
        if not padded[tuple(place + 1 + step * np.eye(mask.ndim, dtype=int)[axis])]
    ]
    return np.unique(found, axis=0)


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.5, 2.0)])
def test_distances_are_those_of_all_pairs(spacing):
    shape = (13, 11, 9)[: len(spacing)]
    for seed in range(3):
        generator = np.random.default_rng(seed)
        a, b = blob(generator, shape), blob(generator, shape, 0.1)
        p, t = (brute_surface(mask) * spacing for mask in (a, b))
        pairs = np.linalg.norm(p[:, None] - t[None], axis=-1)
        there, back = metrics.surface_distances(a, b, spacing)
        np.testing.assert_allclose(np.sort(there), np.sort(pairs.min(1)), rtol=1e-12)
        np.testing.assert_allclose(np.sort(back), np.sort(pairs.min(0)), rtol=1e-12)
        for q in (95.0, 100.0, 50.0):
            expected = max(np.percentile(pairs.min(axis), q) for axis in (0, 1))
            found = metrics.hausdorff(a, b, spacing, percentile=q)
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            assert metrics.hausdorff(b, a, spacing, percentile=q) == found
        together = np.concatenate([pairs.min(0), pairs.min(1)])
        np.testing.assert_allclose(
            metrics.hausdorff(a, b, spacing, pooled=True), np.percentile(together, 95), rtol=1e-12
        )


def test_a_distance_transform_gives_the_same():
    from scipy.ndimage import binary_erosion, distance_transform_edt

    generator = np.random.default_rng(0)
    a, b = np.zeros((2, 40, 40, 20), bool)
    a[5:30, 8:30, 3:18], b[10:38, 4:33, 2:20] = (
        blob(generator, s) for s in ((25, 22, 15), (28, 29, 18))
    )
    surfaces = [mask & ~binary_erosion(mask) for mask in (a, b)]
    far = [distance_transform_edt(~s, sampling=SPACINGS[1]) for s in surfaces]
    there, back = metrics.surface_distances(a, b, SPACINGS[1])
    np.testing.assert_allclose(there, far[1][surfaces[0]], rtol=1e-12)
    np.testing.assert_allclose(back, far[0][surfaces[1]], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", [*SPACINGS, (0.5, 2.0)])
def test_distances_are_monais(spacing):
    monai = pytest.importorskip("monai.metrics")
    generator = np.random.default_rng(1)
    shape = (24, 22, 20)[: len(spacing)]
    a, b = (np.stack([blob(generator, shape, s) for s in (0.3, 0.1)]) for _ in range(2))
    hausdorff = monai.compute_hausdorff_distance(
        a[None], b[None], include_background=True, percentile=95, spacing=spacing
    )
    average = monai.compute_average_surface_distance(
        a[None], b[None], include_background=True, symmetric=True, spacing=spacing
    )
    for i in range(2):
        found = metrics.hausdorff(a[i], b[i], spacing)
        np.testing.assert_allclose(found, hausdorff[0, i], rtol=1e-6)
        distances = np.concatenate(metrics.surface_distances(a[i], b[i], spacing))
        np.testing.assert_allclose(distances.mean(), average[0, i], rtol=1e-6)


def test_report_of_regions_by_hand():
    target, predicted = np.zeros((2, 10, 10, 10), np.int16)
    target[2:6, 2:6, 2:6], target[3:5, 3:5, 3:5] = 2, 1
    predicted[2:6, 2:6, 3:7], predicted[3:5, 3:5, 3:4] = 2, 1
    regions = {"whole": (1, 2), "core": 1}
    report = metrics.region_report(predicted, target, regions, (1.0, 2.0, 5.0))
    assert report["whole"] == {
        "dice": 0.75,
        "sensitivity": 0.75,
        "precision": 0.75,
        "hd95_mm": 5.0,
        "volume_ml": 0.64,
        "target_volume_ml": 0.64,
    }
    assert report["core"]["dice"] == 2 * 4 / (4 + 8)
    assert (report["core"]["sensitivity"], report["core"]["precision"]) == (0.5, 1.0)
    assert report["core"]["volume_ml"] == pytest.approx(0.04)
    for name, value in report["mean"].items():
        assert value == pytest.approx((report["whole"][name] + report["core"][name]) / 2)
    masks = [metrics.region_masks(labels, regions) for labels in (predicted, target)]
    again = metrics.region_report(*masks, tuple(regions), (1.0, 2.0, 5.0))
    assert again == report
    flat = metrics.region_report(predicted[:, :, 4], target[:, :, 4], regions, (1.0, 2.0))
    assert flat["whole"]["area_mm2"] == 32.0
    assert flat["whole"]["hd95_mm"] == 0.0


def test_empty_masks_cost_what_is_documented():
    nothing, some = np.zeros((2, 240, 240, 155), bool)
    some[100:110, 100:110, 70:80] = True
    spacing, nan = (1.0, 1.0, 1.0), float("nan")
    brats = np.sqrt(240**2 + 240**2 + 155**2)
    assert f"{brats:.2f}" == "373.13"
    table = {
        # (prediction, target): penalize, nan; each Dice, sensitivity, precision, HD95
        (False, False): ([1, 1, 1, 0], [nan, nan, nan, nan]),
        (True, False): ([0, 0, 0, brats], [0, nan, 0, nan]),
        (False, True): ([0, 0, 0, brats], [0, 0, nan, nan]),
        (True, True): ([1, 1, 1, 0], [1, 1, 1, 0]),
    }
    for (p, t), expected in table.items():
        masks = (some if p else nothing, some if t else nothing)
        for empty, values in zip(("penalize", "nan"), expected, strict=True):
            report = metrics.mask_report(*masks, spacing, empty=empty)
            found = [report[name] for name in ("dice", "sensitivity", "precision", "hd95_mm")]
            np.testing.assert_array_equal(found, values)
            assert report["volume_ml"] == p * 1.0
            assert report["target_volume_ml"] == t * 1.0


def test_means_leave_nan_out():
    generator = np.random.default_rng(2)
    target = np.stack([blob(generator, (12, 12), s) for s in (0.3, 0.2, 0.1)], -1)
    first = metrics.region_report(target, target, NAMES, (1.0, 1.0), empty="nan")
    target[..., 1:] = False
    second = metrics.region_report(~target, target, NAMES, (1.0, 1.0), empty="nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = metrics.mean_report([first, second])
    assert mean["whole"]["dice"] == (1 + second["whole"]["dice"]) / 2
    # Undefined where the target is empty.
    assert (mean["core"]["hd95_mm"], mean["core"]["sensitivity"]) == (0, 1)
    dice = [mean[name]["dice"] for name in NAMES]
    np.testing.assert_allclose(mean["mean"]["dice"], np.mean(dice))
    only = metrics.mean_report([{"a": {"dice": float("nan")}}])
    assert np.isnan(only["mean"]["dice"])


@pytest.fixture(scope="module")
def labelled():
    """Logits and masks (n, *space, k) that agree to a different degree for each label."""
    generator = np.random.default_rng(0)
    masks = generator.random((5, 6, 7, 4, 3)) < [0.3, 0.1, 0.02]
    logits = generator.normal(0, 2, masks.shape) + [3, 2, 1] * masks
    return logits.astype(np.float32), masks.astype(np.uint8)


def test_streamed_labels_are_each_labels_metrics(labelled):
    logits, masks = labelled
    add = jax.jit(metrics.accumulate_labels)
    state = metrics.label_zeros(images=5, labels=3, bins=1 << 10)
    weights = jnp.array([1, 1, 1, 0], jnp.float32)
    state = add(state, jnp.asarray(logits[:4]), jnp.asarray(masks[:4]), jnp.ones(4))
    # The last batch is filled up with images that do not count, and may hold anything.
    filled = np.concatenate([logits[4:], np.full((3, *logits.shape[1:]), np.nan, np.float32)])
    padded = np.concatenate([masks[4:], masks[:3]])
    weights = jnp.array([1, 0, 0, 0], jnp.float32)
    state = add(state, jnp.asarray(filled), jnp.asarray(padded), weights)
    patients = ["a", "a", "b", "b", "b"]
    report = metrics.summarize_labels(state, NAMES, patients)
    for i, name in enumerate(NAMES):
        exact = metrics.evaluate(logits[..., i], masks[..., i], patients)
        assert report[name]["auprc_low"] <= exact["auprc"] <= report[name]["auprc_high"]
        for key in ("hard_dice", "hard_recall", "hard_dice_patient", "dice_global", "tp"):
            np.testing.assert_allclose(report[name][key], exact[key], rtol=1e-5)
    values = [report[name]["auprc"] for name in NAMES]
    assert values[0] > values[1] > values[2]
    np.testing.assert_allclose(report["mean"]["auprc"], np.mean(values))


def test_logits_of_regions_are_their_probabilities():
    z = jnp.asarray(np.random.default_rng(0).normal(0, 3, (2, 5, 4)), jnp.float32)
    regions = [(1, 2, 3), (1, 3), 3]
    found = jax.jit(lambda z: metrics.region_logits(z, regions))(z)
    p = jax.nn.softmax(z.astype(jnp.float32), axis=-1)
    for i, classes in enumerate(regions):
        expected = p[..., np.ravel(classes)].sum(-1)
        np.testing.assert_allclose(jax.nn.sigmoid(found[..., i]), expected, rtol=2e-6)
    # Where the probability is 1 - 1e-26 the logit still tells how near.
    far = metrics.region_logits(jnp.array([60.0, 0.0]), [(0,), (1,)])
    np.testing.assert_array_equal(far, [60.0, -60.0])


def test_refusals():
    mask = np.zeros((4, 4, 4), bool)
    cases = [
        (lambda: metrics.hausdorff(mask, mask[:3], (1.0,) * 3), "two masks of one shape"),
        (lambda: metrics.hausdorff(mask, mask, (1.0, 1.0)), "spacing is .* for 3 axes"),
        (lambda: metrics.hausdorff(mask, mask, (1.0, 0.0, 1.0)), "edge of a voxel"),
        (lambda: metrics.hausdorff(mask, mask, (1.0,) * 3, percentile=0.0), "percentile is"),
        (lambda: metrics.hausdorff(mask, mask, (1.0,) * 3, empty="zero"), "penalize, nan"),
        (lambda: metrics.hausdorff(mask * 2 + 2, mask, (1.0,) * 3), "beside 0 and 1"),
        (lambda: metrics.surface_distances(mask, mask, (1.0,) * 3), "is empty"),
        (lambda: metrics.region_report(mask, mask, ("a", "b"), (1.0, 1.0)), "2 regions a, b"),
        (lambda: metrics.region_masks(mask * 0.5, {"a": 1}), "float64; give integers"),
        (lambda: metrics.region_masks(mask * 1, {"mean": 1}), "none 'mean'"),
        (lambda: metrics.mean_report([]), "no reports"),
        (lambda: metrics.mean_report([{"a": {}}, {"b": {}}]), "same regions"),
        (lambda: metrics.label_zeros(2, 0), "labels is 0"),
        (lambda: metrics.region_logits(jnp.zeros((2, 3)), [(0, 1, 2)]), "not all"),
        (lambda: metrics.region_logits(jnp.zeros((2, 3)), [3]), "classes 3; give some of 0 to 2"),
    ]
    state = metrics.label_zeros(images=2, labels=2, bins=2)
    cases += [
        (lambda: metrics.summarize_labels(state, ("a",)), "give 2"),
        (
            lambda: metrics.accumulate_labels(state, jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3))),
            "for 2 labels",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
