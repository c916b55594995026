"""The report of a folder: of all that is there, whoever trained it, and of what is not there."""

import json
import shutil

import pandas as pd
import pytest

from fp4jax.analysis.report import report_folder
from fp4jax.files import read_json, write_json
from fp4jax.study import Expectation, Study
from fp4jax.study.record import write_record
from fp4jax.train import RunFolder, Slices
from tests import fabricated_runs as fabricated
from tests.analysis.test_report import Page

FEW = {"archs": ("cnn",), "seeds": (1, 2)}
EXPECTED = (Expectation("cnn", "500k", "baseline", 0.0, 1.0, "a share"),)


def recorded(out, names, expected=(), name="demo"):
    study = Study(Slices("phantom", image_size=32), archs=("cnn",), recipes=("0", "1"))
    data = {"digest": fabricated.DIGEST, "about": ["three patients"]}
    return write_record(study, data, out, names=names, name=name, expected=expected)


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


def test_shards_of_a_study_are_one_report(tmp_path):
    """Two commands with a recipe each, then the report: all of both, and it repeats its bytes."""
    for labels in (("baseline",), ("full",)):
        before = {path.name for path in (tmp_path / "runs").glob("*")}
        fabricated.study(tmp_path / "runs", labels=labels, **FEW)
        names = sorted({path.name for path in (tmp_path / "runs").glob("*")} - before)
        recorded(tmp_path, names, EXPECTED if labels == ("baseline",) else (), name=labels[0])
        found = report_folder(tmp_path, resamples=50)
    assert (found.finished, found.open, found.failures) == (4, (), ())
    assert len(list((tmp_path / "studies").iterdir())) == 2
    table = pd.read_csv(tmp_path / "tables" / "comparisons.csv")
    assert table[["a", "b", "n"]].to_numpy().tolist() == [["baseline", "full", 2]]
    page = page_of(tmp_path / "report.html")
    assert "cnn 500k baseline: test_auprc" in page.text.lower()
    assert "three patients" in page.text
    assert "predictions" in page.values("id")  # of the phantom
    assert "patients/index.html" in page.values("href")
    assert (tmp_path / "patients" / "index.html").exists()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    report_folder(tmp_path, resamples=50)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_missing_is_said(tmp_path):
    root = fabricated.study(tmp_path / "runs", labels=("baseline",), **FEW)
    first, second = sorted(path.name for path in root.iterdir())
    (root / second / "summary.json").unlink()
    RunFolder(root / "cnn_failed").write_failure(RuntimeError("out of <luck>"))
    recorded(tmp_path, [first, second, "cnn_failed", "cnn_absent"])
    found = report_folder(tmp_path, resamples=50)
    assert found.finished == 1
    assert dict(found.open) == {second: "epoch 6 of 6, not finished", "cnn_absent": "not begun"}
    ((name, error),) = found.failures
    assert (name, error.splitlines()[0]) == ("cnn_failed", "RuntimeError: out of <luck>")
    page = page_of(tmp_path / "report.html")
    assert "2 not finished: see 'Runs not finished'. 1 failed" in page.text
    assert "out of <luck>" in page.text


@pytest.mark.slow
def test_runs_that_cannot_be_compared_have_pages_of_their_own(tmp_path):
    for options in ({}, {"data": Slices("phantom", image_size=64)}, {"learning_rate": 1.0}):
        fabricated.study(tmp_path / "runs", labels=("baseline", "full"), **FEW, **options)
    found = report_folder(tmp_path, resamples=50)
    index, *pages = found.paths
    assert index == tmp_path / "report.html"
    assert len(pages) == 3
    links = [link for link in page_of(index).values("href") if not link.startswith("#")]
    assert sorted(links) == sorted(str(path.relative_to(tmp_path)) for path in pages)
    for path in pages:
        assert "4 finished runs" in page_of(path).text
        assert len(pd.read_csv(path.parent / "tables" / "runs.csv")) == 4
    # With one family left there is one page again.
    for path in (tmp_path / "runs").iterdir():
        config = json.loads((path / "config.json").read_text())["config"]
        if config["data"]["image_size"] == 64 or config["learning_rate"] == 1.0:
            shutil.rmtree(path)
    report_folder(tmp_path, resamples=50)
    assert not (tmp_path / "reports").exists()
    assert "4 finished runs" in page_of(index).text


def test_pictures_of_patients_are_shown_only_if_asked_for(tmp_path):
    fabricated.study(tmp_path, labels=("baseline",), **FEW, data=Slices("lgg", image_size=32))
    report_folder(tmp_path, resamples=50)
    assert "predictions" not in page_of(tmp_path / "report.html").values("id")
    report_folder(tmp_path, pictures=True, resamples=50)
    assert "predictions" in page_of(tmp_path / "report.html").values("id")
    report_folder(tmp_path, resamples=50)
    assert not list(tmp_path.glob("figures/predictions*"))
    assert not (tmp_path / "patients").exists()


def test_folders_of_version_0_1_are_read(tmp_path):
    """study.json at the top, flat configurations, no split and no environment."""
    root = fabricated.study(tmp_path / "runs", labels=("baseline", "full"), **FEW)
    for path in root.iterdir():
        record = read_json(path / "config.json") or {}
        flat = {k: v for k, v in record["config"].items() if k not in ("plugins", "data")}
        flat |= {"data": "phantom", "image_size": 32, "augment": True, "digest": record["digest"]}
        write_json(path / "config.json", flat)
        summary = read_json(path / "summary.json") or {}
        write_json(path / "summary.json", {**summary, "schema": 2, "data": "phantom"})
        for name in ("split.json", "environment.json"):
            (path / name).unlink()
    lanes = [[path.name] for path in sorted(root.iterdir())]
    study = {"archs": ["cnn"], "data": "phantom"}
    write_json(
        tmp_path / "study.json",
        {"study": study, "fingerprint": {"sha256": "ab" * 32, "crc32": {}}, "lanes": lanes},
    )
    found = report_folder(tmp_path, resamples=50)
    assert (found.finished, found.open) == (4, ())
    page = page_of(tmp_path / "report.html")
    assert "ab" * 32 in page.text
    assert "made-with" not in page.values("id")
    assert "4 finished runs, trained on cpu." in page.text


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="holds no runs"):
        report_folder(tmp_path)
    recorded(tmp_path, ["cnn_absent"])
    assert report_folder(tmp_path).open == (("cnn_absent", "not begun"),)
    assert not (tmp_path / "report.html").exists()
    write_json(tmp_path / "studies" / "other.json", {"a": 1})
    with pytest.raises(ValueError, match="holds no study"):
        report_folder(tmp_path)
