"""The synthetic cohort: repeatable, plausible, cached."""

import hashlib
import importlib.resources
import subprocess
import sys
import threading

import numpy as np
import pytest

from fp4jax.data import Cohort, phantom
from fp4jax.data.phantom import anatomy, annotator, fields, geometry, loading, record, tumour
from fp4jax.data.phantom.template import load_template, read_template
from fp4jax.data.phantom.volume import Volume

SMALL = {"slices": 16, "image_size": 64}


def digest(cohort: Cohort) -> str:
    arrays = (cohort.images, cohort.masks, cohort.patient_ids, cohort.slice_index)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return phantom.load(12, **SMALL, cache=False)


# ---- template


def test_the_template_is_frozen():
    """Every seed's patients depend on it."""
    folder = importlib.resources.files("fp4jax.data.phantom") / "icbm152"
    data = (folder / "icbm152_09a_sym_1p5mm.npz").read_bytes()
    assert hashlib.sha256(data).hexdigest() == phantom.TEMPLATE_SHA256
    assert phantom.TEMPLATE_SHA256.startswith("c603c43d3cafe64c")


def test_the_templates_licence_lies_beside_it():
    notice = importlib.resources.files("fp4jax.data.phantom") / "icbm152/NOTICE.md"
    text = " ".join(notice.read_text("utf-8").split())
    assert "Copyright (C) 1993-2004 Louis Collins" in text
    assert "Permission to use, copy, modify, and distribute" in text


def test_a_damaged_template_is_refused(monkeypatch):
    monkeypatch.setattr("fp4jax.data.phantom.template.TEMPLATE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="Install fp4jax again"):
        read_template()


def test_closed_brain_holds_the_brain_and_no_air():
    """Closing the wrong way round would put fluid into the air around the head."""
    template = load_template()
    x, y, z = template.distance.axes()
    d_brain, d_head = np.moveaxis(template.distance.maps, -1, 0)
    matter = template.matter
    points = np.stack(np.broadcast_arrays(*matter.axes())).reshape(3, -1)
    solid = matter.maps.sum(-1).reshape(-1) > 0.6
    assert template.distance.sample(points[:, solid])[0].max() < 3
    litres = np.count_nonzero(d_brain < 0) * template.distance.spacing**3 / 1e6
    assert 1.5 < litres < 2.2
    on_the_edge = np.zeros(d_brain.shape, bool)
    on_the_edge[[0, -1]] = on_the_edge[:, [0, -1]] = True
    on_the_edge[..., -1] = True
    assert d_brain[on_the_edge].min() > 8
    # The skin is 14 mm off the brain at the vertex.
    top = (np.abs(x) < 20) & (np.abs(y + 20) < 20) & (np.abs(z - 85) < 20) & (d_brain > 2)
    assert np.abs(d_head - d_brain + 14)[top].max() < 1


# ---- parts


def test_a_field_of_equal_coefficients_is_constant():
    axes = tuple(np.linspace(a, b, 7) for a, b in zip(fields.LOW, fields.HIGH, strict=True))
    field = fields.evaluate(np.full((4, 6, 9), 2.0, np.float32), axes)
    np.testing.assert_allclose(field, 2, rtol=1e-6)


def test_fields_of_unit_coefficients_have_unit_variance():
    control = fields.control_points(fields.stream(0, 0, "test"), (40, 40, 40))
    axes = tuple(
        np.linspace(a + 9, b - 9, 60) for a, b in zip(fields.LOW, fields.HIGH, strict=True)
    )
    assert fields.evaluate(control, axes, unit=True).std() == pytest.approx(1, rel=0.03)


def test_a_volume_is_linear_between_voxels():
    rng = np.random.default_rng(0)
    volume = Volume(np.zeros((5, 6, 7, 2), np.float32), (-3.0, 2.0, 10.0), 1.5)
    x, y, z = volume.axes()
    volume.maps[..., 0] = 1 + 2 * x - 3 * y + 0.5 * z
    volume.maps[..., 1] = x
    low = np.array(volume.origin)[:, None]
    points = (low + 1.5 * rng.random((3, 50)) * np.array([[4], [5], [6]])).astype(np.float32)
    first, second = volume.sample(points)
    px, py, pz = points
    np.testing.assert_allclose(first, 1 + 2 * px - 3 * py + 0.5 * pz, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(second, px, atol=1e-5)
    assert volume.inside(points).all()
    assert not volume.inside(points + 100).any()


def test_tumours_grow_to_their_volume_and_stay_out_of_fluid():
    template = load_template()
    for index in range(4):
        one = tumour.grow(template, fields.stream(0, index, "test"))
        u = one.growth.maps[..., 0]
        assert u.min() >= 0
        assert u.max() <= 1
        volume = np.count_nonzero(u > 0.2) * one.growth.spacing**3 / 1000
        assert volume == pytest.approx(one.target_cc, rel=0.25)
        push = np.sqrt((one.growth.maps[..., 1:4] ** 2).sum(-1))
        assert push.max() <= 9.001
        points = np.stack(np.broadcast_arrays(*one.growth.axes())).reshape(3, -1)
        matter = template.matter.sample(points.astype(np.float32)).sum(0)
        matter *= template.matter.inside(points)
        assert u.reshape(-1)[matter < 0.04].max() < 1e-3


def test_tissue_is_pushed_away_from_the_tumour():
    """What lies at p was at p + push before, which is nearer to the tumour."""
    growth = tumour.grow(load_template(), fields.stream(1, 0, "test")).growth
    u, push = growth.maps[..., 0].astype(np.float64), growth.maps[..., 1:4]
    grid = np.stack(np.broadcast_arrays(*growth.axes()), -1)
    centre = (u[..., None] * grid).sum((0, 1, 2)) / u.sum()
    away = grid - centre
    strong = np.sqrt((push**2).sum(-1)) > 0.5 * np.sqrt((push**2).sum(-1)).max()
    assert ((push * away).sum(-1)[strong] < 0).mean() > 0.95


def test_heads_have_their_fractions_in_range():
    template, index = load_template(), 5
    shape = geometry.draw_geometry(geometry.Grid(8, 48), fields.stream(0, index, "geometry"))
    grown = tumour.grow(template, fields.stream(0, index, "tumour"))
    built, points = anatomy.build_anatomy(template, shape, grown, fields.stream(0, index, "a"))
    total = sum(built.fractions.values())
    assert set(built.fractions) == set(anatomy.TISSUES)
    assert min(f.min() for f in built.fractions.values()) > -1e-5
    assert np.max(total) < 1.001
    assert points.shape == (3, len(built.pixels))
    mask = annotator.annotate(built, points, shape, grown, fields.stream(0, index, "rater 0"))
    assert mask.dtype == np.uint8
    assert mask.shape == (8, 48, 48)


# ---- patients


def test_a_patient_is_complete():
    one = phantom.patient(7, **SMALL)
    assert tuple(one.images) == record.CONTRASTS
    volumes = [*one.images.values(), one.mask, one.labels, one.brain]
    assert all(v.dtype == np.uint8 and v.shape == (16, 64, 64) for v in volumes)
    assert all(v.min() < 20 and v.max() > 200 for v in one.images.values())
    assert set(np.unique(one.labels)) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(one.labels > 0, one.mask > 0)
    assert 1.0 < one.brain.sum() * np.prod(one.spacing) / 1e6 < 2.2
    corner = one.affine @ [0, 0, 0, 1]
    along = one.affine @ [63, 63, 15, 1] - corner
    np.testing.assert_allclose(np.abs(along[:3]), np.array(one.spacing)[::-1] * [63, 63, 15])
    # Column 0 is right, row 0 anterior, slice 0 below.
    assert along[0] < 0
    assert along[1] < 0
    assert along[2] > 0


def test_tumours_are_bright_on_flair_and_t2_and_dark_on_t1():
    brighter = {"flair": 0, "t2": 0, "t1": 0}
    for index in range(6):
        one = phantom.patient(index, **SMALL, contrasts=tuple(brighter))
        rest = (one.brain > 0) & (one.mask == 0)
        for name in brighter:
            image = one.images[name]
            # White matter is the brightest tissue of the brain on T1.
            others = np.percentile(image[rest], 75 if name == "t1" else 50)
            brighter[name] += np.median(image[one.labels == 2]) > others
    assert brighter["flair"] >= 5
    assert brighter["t2"] >= 5
    assert brighter["t1"] <= 1


def test_high_grades_enhance():
    found = [phantom.patient(i, slices=10, image_size=48, contrasts=()) for i in range(10)]
    high = [p for p in found if p.high_grade]
    assert 1 <= len(high) <= 6
    assert all((p.labels == 3).any() for p in high)


def test_contrasts_do_not_influence_each_other():
    everything = phantom.patient(2, **SMALL)
    flair = phantom.patient(2, **SMALL, contrasts=("flair",))
    np.testing.assert_array_equal(flair.images["flair"], everything.images["flair"])


def test_resolution_does_not_change_the_anatomy():
    coarse = phantom.patient(4, slices=12, image_size=48, contrasts=())
    fine = phantom.patient(4, slices=12, image_size=96, contrasts=())
    assert coarse.high_grade == fine.high_grade
    ratio = coarse.mask.sum(dtype=int) * 4 / fine.mask.sum(dtype=int)
    assert ratio == pytest.approx(1, rel=0.15)


def test_raters_agree_but_not_entirely():
    dice = []
    for index in range(5):
        a, b = (phantom.patient(index, **SMALL, contrasts=(), rater=r).mask > 0 for r in (0, 1))
        dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert 0.75 < np.mean(dice) < 0.97


# ---- cohorts


def test_the_cohort_has_the_form_of_lgg(cohort):
    assert cohort.images.shape == (192, 64, 64, 3)
    assert cohort.channels == ("pre-contrast", "FLAIR", "post-contrast")
    assert len(cohort.patients) == 12
    assert cohort.patients[0] == "phantom_0000"
    np.testing.assert_array_equal(cohort.slice_index[:17], [*range(16), 0])


def test_the_same_seed_gives_the_same_bits(cohort):
    again = phantom.load(12, **SMALL, cache=False, workers=3)
    assert digest(again) == digest(cohort)


def test_patients_do_not_depend_on_the_cohort(cohort):
    few = phantom.load(2, **SMALL, cache=False, workers=1)
    both = cohort.select(few.patients)
    assert digest(both) == digest(few)
    other = phantom.load(2, **SMALL, seed=1, cache=False)
    assert digest(other) != digest(few)


def test_statistics_are_those_of_lgg(cohort):
    """LGG: about 1 % of the pixels, 35 % of the slices."""
    masks = cohort.masks.reshape(12, 16, 64, 64)
    positive = masks.any((2, 3))
    assert 0.006 < masks.mean() < 0.016
    assert 0.27 < positive.mean() < 0.45
    assert positive.any(1).all()
    # The positive slices of a patient are one run.
    assert (np.abs(np.diff(np.pad(positive, [(0, 0), (1, 1)]).astype(int))).sum(1) == 2).all()


def test_a_threshold_does_not_solve_it(cohort):
    flair = cohort.images[..., 1].reshape(12, -1)
    masks = cohort.masks.reshape(12, -1) > 0
    best = 0.0
    for threshold in range(60, 256, 5):
        hit = flair > threshold
        dice = 2 * (hit & masks).sum(1) / (hit.sum(1) + masks.sum(1))
        best = max(best, float(dice.mean()))
    assert best < 0.5


def test_missing_sequences_are_replaced_by_flair(cohort):
    kinds = [loading.sequences(i, 2026) for i in range(400)]
    assert 0.04 < np.mean([k == ("t1", "flair", "flair") for k in kinds]) < 0.13
    assert 0.02 < np.mean([k == ("flair", "flair", "t1c") for k in kinds]) < 0.10
    images = cohort.images.reshape(12, 16, 64, 64, 3)
    for image, names in zip(images, kinds[:12], strict=True):
        for channel, name in enumerate(names):
            same = np.array_equal(image[..., channel], image[..., 1])
            assert same == (name == "flair")
    assert any("flair" in (k[0], k[2]) for k in kinds[:12])


def test_ref_bgr_reverses_the_channels():
    rgb = phantom.load(1, slices=4, image_size=32, cache=False)
    bgr = phantom.load(1, slices=4, image_size=32, cache=False, channel_order="ref_bgr")
    np.testing.assert_array_equal(rgb.images[..., ::-1], bgr.images)
    assert bgr.channels == rgb.channels[::-1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": 0}, "patients is 0"),
        ({"slices": 3}, "slices is 3"),
        ({"image_size": 8}, "image_size is 8"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"channel_order": "bgr"}, "rgb and ref_bgr"),
        ({"cache": True}, "name a folder"),
    ],
)
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        phantom.load(**({"patients": 1, "slices": 4, "image_size": 16, "cache": False} | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"index": -1}, "index"),
        ({"contrasts": ("pd",)}, "t1, t1c, t2, flair"),
        ({"rater": -1}, "r"),
    ],
)
def test_bad_patients_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        phantom.patient(**({"index": 0} | wrong))


# ---- cache

TINY = {"patients": 1, "slices": 4, "image_size": 24}


def test_the_second_load_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FP4JAX_CACHE", str(tmp_path / "mine"))
    first = phantom.load(**TINY)
    monkeypatch.setattr(loading, "patient", None)
    second = phantom.load(**TINY)
    assert digest(first) == digest(second)
    assert len(list((tmp_path / "mine/phantom").iterdir())) == 1
    with pytest.raises(TypeError):
        phantom.load(**TINY, seed=3)


def test_other_versions_have_other_entries(tmp_path, monkeypatch):
    phantom.load(**TINY, cache=tmp_path)
    monkeypatch.setattr(loading, "GENERATOR_VERSION", -1)
    phantom.load(**TINY, cache=tmp_path)
    assert len(list((tmp_path / "phantom").iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    first = phantom.load(**TINY, cache=tmp_path)
    (entry,) = (tmp_path / "phantom").iterdir()
    if damage == "cut":
        data = (entry / "images.npy").read_bytes()
        (entry / "images.npy").write_bytes(data[: len(data) // 2])
    else:
        for file in entry.iterdir():
            file.unlink()
    assert digest(phantom.load(**TINY, cache=tmp_path)) == digest(first)
    assert digest(Cohort.open(entry)) == digest(first)


def test_a_cache_that_cannot_be_written_is_only_a_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="FP4JAX_CACHE"):
        cohort = phantom.load(**TINY, cache=tmp_path / "file")
    assert len(cohort) == 4


def test_two_at_the_same_time(tmp_path):
    found = []

    def work() -> None:
        found.append(digest(phantom.load(**TINY, cache=tmp_path)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(list((tmp_path / "phantom").iterdir())) == 1


def test_no_scipy_before_it_is_used():
    """The trainer runs where SciPy and matplotlib are not installed."""
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['matplotlib'] = None; "
        "import fp4jax.data.phantom"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_picture_is_a_png(cohort, tmp_path):
    pytest.importorskip("matplotlib")
    path = phantom.picture(cohort, tmp_path / "sub/overview.png", patients=3)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["overview.png"]
    with pytest.raises(ValueError, match=r"\.png"):
        phantom.picture(cohort, tmp_path / "overview.jpg")
    with pytest.raises(ValueError, match="patients is 0"):
        phantom.picture(cohort, path, patients=0)
