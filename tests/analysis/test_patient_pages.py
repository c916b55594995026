"""Pages of single patients: whose there are, what they show, and that they go away again."""

import re

import pytest

from fp4jax.analysis.report import report_folder
from fp4jax.analysis.report.patient_pages import remove_patients, write_patients
from fp4jax.analysis.results import read_runs
from fp4jax.train import Slices
from tests import fabricated_runs as fabricated
from tests.analysis.test_report import Page

LABELS = ("baseline", "ptq full")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    fabricated.study(out / "runs", archs=("cnn",), labels=LABELS, seeds=(1, 2))
    runs = read_runs(out / "runs")
    write_patients(out / "patients", runs, title="a study", synthetic=True)
    return out


def pages(folder) -> dict[str, Page]:
    return {
        path.name: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.html"))
    }


def test_pages_load_nothing(study):
    found = pages(study / "patients")
    assert len(found) == 4
    for page in found.values():
        assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
        for target in page.values("href"):
            assert target == "../report.html" or (study / "patients" / target).exists()
        assert "These patients are synthetic" in page.text


def test_a_page_shows_all_labels_and_every_dice(study):
    runs = read_runs(study / "runs")
    found = pages(study / "patients")
    one = next(page for name, page in found.items() if "patient_01" in name)
    for run in runs:
        assert run.path.name in one.text
        assert f"{run.summary['test_patients']['patient_01']:.3f}" in one.text
    # Input, truth, then prediction and probability of each label, of one seed.
    assert len(one.values("src")) == 2 + 2 * len(LABELS)
    assert "CNN 500K, holdout, seed 1" in one.text
    assert "ptq full (1): Dice" in one.text
    index = found["index.html"]
    means = [
        sum(r.summary["test_patients"]["patient_01"] for r in runs if r.label == label) / 2
        for label in LABELS
    ]
    assert all(f"{mean:.3f}" in index.text for mean in means)


@pytest.mark.slow
def test_real_patients_have_pages_only_if_asked_for(tmp_path):
    """And none remains after a report without them; files of others do."""
    task = Slices("lgg", image_size=32)
    for seed in (1, 2):
        fabricated.run(tmp_path / "runs", fabricated.cohort(), arch="cnn", seed=seed, data=task)
    folder = tmp_path / "patients"
    report_folder(tmp_path, resamples=20)
    assert not folder.exists()
    report_folder(tmp_path, patients=True, resamples=20)
    found = pages(folder)
    assert len(found) == 4
    assert all("pass them on only" in page.text for page in found.values())
    (folder / "notes.html").write_text("mine")
    report_folder(tmp_path, resamples=20)
    assert [path.name for path in folder.iterdir()] == ["notes.html"]
    assert "patients/index.html" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_names_of_patients_are_no_paths(study, tmp_path):
    runs = read_runs(study / "runs")
    for run in runs:
        run.summary["test_patients"] = {"../a b/<1>": 0.5, "../a b/(1)": None}
    write_patients(tmp_path / "p", runs, title="x", synthetic=True)
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert len(names) == 3
    assert all(re.fullmatch(r"index\.html|patient_[A-Za-z0-9._-]+\.html", name) for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    index = (tmp_path / "p" / "index.html").read_text(encoding="utf-8")
    assert "<1>" not in index
    remove_patients(tmp_path / "p")
    assert not (tmp_path / "p").exists()
