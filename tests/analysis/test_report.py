"""The report of fabricated studies: complete, escaped, self-contained, honest about one run."""

import dataclasses
import html.parser
import re

import pandas as pd
import pytest

from fp4jax.analysis.report import html as pages, write_report
from fp4jax.analysis.report.headline import METRICS, ONE_RUN
from fp4jax.analysis.results import read_runs, table
from fp4jax.analysis.stats import relative, summary
from fp4jax.train import Volumes
from tests import fabricated_runs as fabricated

CSV = ("runs", "summary", "relative", "comparisons", "all_pairs", "kendall", "patient_bootstrap")
CSV += ("regions", "patients", "patient_comparisons")
ABOUT = {
    "configuration": {"demo": {"archs": ["cnn"], "data": {"name": "phantom", "<b>": 1}}},
    "data": {"demo": {"name": "fabricated", "sha256": "ab" * 32}},
    "resamples": 50,
}


class Page(html.parser.HTMLParser):
    """Checks that tags close in order; collects text, sources, ids and links."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags, self.attributes = "", [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not set(self.open) & {"style", "script"}:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    labels = ("baseline", "2d+rht+sr", "ptq full", "qad full")
    root = tmp_path_factory.mktemp("several")
    splits = ("fold0", "fold1")
    return read_runs(
        fabricated.study(root, archs=("cnn",), labels=labels, splits=splits, seeds=(1, 2))
    )


@pytest.fixture(scope="module")
def written(several, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(
        folder / "new" / "report.html",
        title="Folds & seeds",
        runs=several,
        expectations=[("AUPRC of <CNN>", "> 0.6", "0.61")],
        open_=[("cnn_4m_s2", "epoch 7 of 20, not finished")],
        failures=[("cnn_4m_s1", "Traceback:\n  <script>alert(1)</script>")],
        **ABOUT,
    )
    return folder / "new"


@pytest.fixture(scope="module")
def page(written):
    return Page((written / "report.html").read_text(encoding="utf-8"))


def test_the_page_loads_nothing(written, page):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    sources = page.values("src")
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert all(target.startswith("#") for target in page.values("href"))
    (policy,) = [value for value in page.values("content") if "default-src" in value]
    assert "default-src 'none'" in policy
    assert not re.findall(r"url\(|@import", text)


def test_contents_link_to_every_section(page):
    ids, links = page.values("id"), page.values("href")
    assert [f"#{name}" for name in ids] == links
    assert ids[0] == "results"
    assert {"how-to-read-this", "statistics", "ranks", "patient-bootstrap"} <= set(ids)
    assert {"runs-not-finished", "made-with"} <= set(ids)
    assert {"expected-against-got", "failed-runs", "studies", "data"} <= set(ids)


def test_everything_is_escaped(written, page):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert page.tags.count("script") == 1
    assert "<b>" not in text
    assert "AUPRC of <CNN>" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert "Folds & seeds" in page.text


def test_the_headline_has_means_and_intervals(several, page):
    first = page.text[page.text.index("threshold") :]
    for record in summary(table(several)).to_dict(orient="records"):
        assert f"{record['mean']:.3f} ± {record['sd']:.3f}" in first
        assert f"{record['ci_low']:.3f} to {record['ci_high']:.3f}" in first
    per_cent = summary(relative(table(several)), "percent")
    mean = per_cent[per_cent["label"] == "ptq full"].iloc[0]["mean"]
    assert f"{mean:.1f} ±" in first
    assert ONE_RUN not in page.text


def test_statistics_come_with_their_power(page):
    assert "No comparison can reach p < 0.05: with 2 pairs" in page.text
    assert "out of reach" in page.text
    assert "for 6 comparisons" in page.text


def test_what_it_was_made_of_and_with(page):
    assert "ab" * 32 in page.text
    assert "data.<b>" in page.text
    assert "epoch 7 of 20, not finished" in page.text
    lead = page.text[: page.text.index("Results")]
    assert "16 finished runs, trained on cpu (Some Processor <1>) with fp4jax 0.2.0" in lead
    assert "jax 0.9.0, 2026-11-28 20:00 UTC." in lead
    assert "For research only, not a medical device." in lead
    assert "1 not finished" in lead
    assert "fp4jax study demo" in page.text
    assert "/home/somebody" not in page.text


def test_tables_beside_the_page(several, written):
    frames = {name: pd.read_csv(written / "tables" / f"{name}.csv") for name in CSV}
    assert sorted(path.stem for path in (written / "tables").iterdir()) == sorted(CSV)
    assert len(frames["runs"]) == len(several) == 16
    assert set(frames["summary"]["metric"]) == set(METRICS)
    assert len(frames["comparisons"]) == 3
    assert len(frames["all_pairs"]) == 6
    bootstrap = frames["patient_bootstrap"]
    assert bootstrap["label"].tolist() == ["baseline", "2d+rht+sr", "ptq full", "qad full"]
    assert bootstrap["pairs"].tolist() == [0, 4, 4, 4]
    means = summary(table(several)).set_index("label")["mean"]
    for row in bootstrap.to_dict(orient="records"):
        assert abs(row["auprc"] - means[row["label"]]) < 2e-3
        assert row["ci_low"] <= row["auprc"] <= row["ci_high"]
        if row["pairs"]:
            assert abs(row["loss"] - (means["baseline"] - means[row["label"]])) < 3e-3


def test_figures_beside_the_page(written, page):
    names = sorted(path.stem for path in (written / "figures").iterdir())
    expected = ["calibration", "cross_validation", "patients", "precision_recall"]
    expected += ["predictions_cnn", "recipe_sensitivity", "seeds", "training_cnn_500k"]
    assert names == expected
    assert len(page.values("src")) == len(expected)
    assert all(page.values("alt"))


def test_without_pictures_none_of_a_patient_remains(several, written, tmp_path):
    old = tmp_path / "figures" / "predictions_cnn.png"
    old.parent.mkdir()
    old.write_text("of a patient")
    runs = [run for run in several if run.config.seed == 1]
    write_report(tmp_path / "report.html", title="x", runs=runs, pictures=False, **ABOUT)
    assert not old.exists()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "id='predictions'" not in text
    assert "id='failed-runs'" not in text


def test_one_run_of_each_has_no_interval_and_repeats_its_bytes(tmp_path):
    root = fabricated.study(tmp_path / "runs", archs=("swin",), seeds=(1,))
    path = tmp_path / "report.html"
    written = []
    for _ in range(2):
        write_report(path, title="One seed", runs=read_runs(root), **ABOUT)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    page = Page(written[0].decode())
    assert ONE_RUN in page.text
    assert "one pair, no interval" in page.text
    assert not re.findall(r"\bnan\b", page.text, re.IGNORECASE)


def test_a_single_run_without_baseline(tmp_path):
    fabricated.run(tmp_path / "runs", fabricated.cohort(), arch="vit", recipe="1")
    write_report(tmp_path / "r.html", title="x", runs=read_runs(tmp_path / "runs"), **ABOUT)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "No run has a baseline" in page.text
    assert "1 finished run," in page.text
    for name in CSV:
        assert "arch" in pd.read_csv(tmp_path / "tables" / f"{name}.csv").columns


def test_metrics_that_are_not_defined(tmp_path):
    data = fabricated.without_positives(fabricated.cohort())
    fabricated.run(tmp_path / "runs", data, arch="vit")
    write_report(tmp_path / "r.html", title="x", runs=read_runs(tmp_path / "runs"), **ABOUT)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "–" in page.text
    assert not re.findall(r"\bnan\b", page.text, re.IGNORECASE)


def test_volumes_have_a_table_of_regions(tmp_path):
    task = Volumes(patch_size=(32, 32, 32))
    options = {"archs": ("unet",), "labels": ("baseline", "full"), "seeds": (1, 2)}
    root = fabricated.study(tmp_path / "runs", **options, data=task)
    write_report(tmp_path / "r.html", title="x", runs=read_runs(root), **ABOUT)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "regions" in page.values("id")
    assert "tumour_core" in page.text
    assert "that of the highest mean Dice" in page.text
    frame = pd.read_csv(tmp_path / "tables" / "regions.csv")
    assert len(frame) == 2 * 2 * 3
    own = frame[(frame["label"] == "full") & (frame["region"] == "mean")]["dice"]
    assert f"{own.mean():.3f} ± {own.std():.3f}" in page.text
    assert (tmp_path / "figures" / "training_unet_500k.png").exists()


def test_runs_of_the_older_schema(tmp_path):
    root = fabricated.study(tmp_path / "runs", archs=("swin",), seeds=(1,))
    for kept in [*root.glob("*/*_scores.npz"), *root.glob("*/examples.npz")]:
        kept.unlink()
    write_report(tmp_path / "r.html", title="x", runs=read_runs(root), **ABOUT)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "patient-bootstrap" not in page.values("id")
    assert "predictions" not in page.values("id")


def test_nothing_to_report_is_refused(tmp_path, several):
    with pytest.raises(ValueError, match="got none"):
        write_report(tmp_path / "r.html", title="x", runs=[], **ABOUT)
    with pytest.raises(ValueError, match="twice"):
        write_report(tmp_path / "r.html", title="x", runs=[*several, several[0]], **ABOUT)
    assert not list(tmp_path.iterdir())


def test_cells_sort_by_number():
    text = pages.table(["x"], [[pages.number(0.5)], [pages.number(None)], [pages.Cell("<")]])
    assert "data-v='0.5'" in text
    assert "data-v='-1e999'" in text
    assert "<td>&lt;</td>" in text


def test_patients_of_a_cross_validation_are_compared(tmp_path):
    """Three patients are too few to find anything; the verdicts say so."""
    root = fabricated.study(
        tmp_path / "runs", archs=("cnn",), labels=("baseline", "full"), splits=("fold0", "fold1")
    )
    write_report(tmp_path / "r.html", title="x", runs=read_runs(root), **ABOUT)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "patients" in page.values("id")
    assert "with 2 pairs (a pair is a fold)" in page.text
    assert "2 folds" in page.text
    found = pd.read_csv(tmp_path / "tables" / "patient_comparisons.csv")
    assert found["metric"].tolist() == ["auprc", "f2", "recall", "dice", "missed"]
    assert (found["n"] == 3).all()
    assert (found["verdict"].isin(["out of reach", "equivalent"])).all()
    assert len(pd.read_csv(tmp_path / "tables" / "patients.csv")) == 12 * 3


def test_a_threshold_that_could_not_be_chosen_is_named(tmp_path):
    fabricated.run(tmp_path / "runs", fabricated.cohort(), arch="vit")
    (run,) = read_runs(tmp_path / "runs")
    val = {**run.summary["val"], "best_f2_score": 0.0}
    broken = dataclasses.replace(run, summary={**run.summary, "val": val, "threshold": 0.5})
    for runs, said in ((run, False), (broken, True)):
        write_report(tmp_path / "r.html", title="x", runs=[runs], **ABOUT)
        page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
        text = f"it is 0.5 for 1 of 1 runs: {run.path.name}"
        assert (text in page.text) == said
