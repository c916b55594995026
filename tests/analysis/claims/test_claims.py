"""From runs to tables and a page: the same study gives the same bytes, with its runs or without."""

import functools
from pathlib import Path

import pandas as pd
import pytest

from fp4jax.analysis.claims import Collected, Tables, all_tables, filled, tables as made, variance
from fp4jax.analysis.claims.contrasts import compared
from fp4jax.analysis.claims.coverage import coverage, missing
from fp4jax.analysis.claims.page import TABLES
from fp4jax.cli.program import load
from tests import fabricated_runs
from tests.fabricated_scores import STATED, study, without

ROOT = Path(__file__).parents[3]
PAGE = "# A page\n" + "".join(f"\n<!-- {name} -->\nold\n<!-- end -->\n" for name in TABLES)


@pytest.fixture(autouse=True)
def no_random_effects(request, monkeypatch):
    """They take most of the time; tests of variance.py are elsewhere."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(variance, "_random", lambda design: ({"residual": 1.0}, True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A study's folder with runs of two folds; one has been diagnosed."""
    root = tmp_path_factory.mktemp("study")
    options = {"splits": ("fold0", "fold1"), "seeds": (1,), "labels": ("baseline", "full")}
    fabricated_runs.study(root / "runs", **options)
    for i, path in enumerate(sorted((root / "runs").glob("cnn_*baseline*"))):
        lines = ["run,state,recipe,layer,quantity,of,value"]
        lines += [f"r,best,full,total,bias,gradient,{i + 1}", "r,best,full,a,sqnr_db,fprop.x,9"]
        lines += [f"r,best,full,{layer},entropy,attention,{n}" for layer, n in (("a", 2), ("b", 4))]
        (path / "diagnosis.csv").write_text("\n".join(lines))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_rerun_changes_no_byte_with_runs_or_without(runs, tmp_path, capsys):
    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text(PAGE)
    options = ["--out", str(out), "--page", str(page), "--resamples", "50"]
    load("claims").run([str(runs), *options])
    said = capsys.readouterr().out
    assert "missing: ViT 500K: everything" in said
    assert "5a Swin under recipe 5 is equivalent to its baseline: not decided here, lacks " in said
    first, text = contents(out), page.read_text()
    assert "\nold\n" not in text
    assert "**Partial: 8 runs are finished" in text.split("<!-- design -->")[0]
    assert "| CNN 500K | best | 2 | `full (1)` |  | 1.5 |  |" in text
    assert "| CNN 500K | best | 2 | `full (1)` | 3 (2 to 4) |  |" in text
    load("claims").run(options)
    assert contents(out) == first
    assert page.read_text() == text
    assert "sqnr_db" not in (out / "inside.csv").read_text()
    assert (out / "inside.csv").read_text().count("bias") == 2
    assert "no architecture has recipes of both groups" in text.split("<!-- groups -->")[1]
    assert "Measured, by AUPRC: claim 1 at 500K, claim 2 at 500K, claim 5 at 500K." in text


def refused(options, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        load("claims").run([*map(str, options), "--resamples", "10"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    return error


def test_a_study_needs_a_folder_of_its_own(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "with --out" in refused([runs], capsys)
    assert not any(tmp_path.iterdir())
    # A user's own files, those of a report, a file.
    others = {"mine": {"contrasts.png": "mine"}, "report": {}}
    for name in ("runs", "patients"):
        others["report"][f"{name}.csv"] = "run,arch\nr,cnn\n"
    for name, files in others.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        before = contents(tmp_path / name)
        assert "nothing in it is replaced" in refused([runs, "--out", tmp_path / name], capsys)
        assert contents(tmp_path / name) == before
    file = tmp_path / "mine" / "contrasts.png"
    assert "is a file" in refused([runs, "--out", file], capsys)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (None, "is not there"),
        (b"<!-- claim -->\n<!-- end -->\n", "a table <!-- claim -->; allowed"),
        (b"\xff<!-- claims -->\n<!-- end -->\n", "is not UTF-8, from byte 0 on"),
        (b"# nothing\n", "has no place for a table"),
        (b"<!-- claims of none -->\n<!-- end -->\n", "collect that study first: fp4jax claims"),
        (
            b"<!-- claims -->\n\nkept\n\n<!-- parts -->\n<!-- end -->\n",
            "has 2 places for tables, and 1",
        ),
    ],
)
def test_a_page_is_refused_before_anything_is_written(runs, tmp_path, capsys, page, said):
    path, out = tmp_path / "page.md", tmp_path / "out"
    if page is not None:
        path.write_bytes(page)
    assert said in refused([runs, "--out", out, "--page", path], capsys)
    assert not out.exists()


def test_text_is_read_as_text(tmp_path):
    whole = study(patients=2, archs=("cnn",), labels=("baseline",))
    whole.patients["patient"] = [["000", "0", "NA", "1e3"][i % 4] for i in range(10)]
    whole.runs["revision"] = ["123456789012", "", "12e456789012", "abc", "000000000000"]
    whole.write(tmp_path)
    read = Collected.read(tmp_path)
    assert list(read.patients["patient"]) == list(whole.patients["patient"])
    assert list(read.runs["revision"]) == list(whole.runs["revision"])
    assert read.patients["auprc"].dtype == read.runs["threshold"].dtype == float


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("runs", b""),
        ("runs", b"arch,scale\ncnn,500k\n"),
        ("runs", None),
        ("patients", None),
        ("patients", b"\xff\xfe\x00"),
        ("inside", b'"arch\n'),
        ("patients", "more"),
        ("patients", "words"),
    ],
)
def test_files_that_are_none_are_named_with_their_columns(tmp_path, name, content):
    study(patients=2, archs=("cnn",), labels=("baseline",)).write(tmp_path)
    path = tmp_path / f"{name}.csv"
    header, first, *_ = [*path.read_text().splitlines(), ""]
    content = {
        None: f"{header}\n".encode(),
        "more": f"{header}\n{first},1,2\n".encode(),
        "words": f"{header}\n{first[:-3]}many\n".encode(),
    }.get(content, content)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.csv.* columns .*arch, scale") as error:
        Collected.read(tmp_path)
    assert "\n" not in str(error.value)


def test_scores_are_those_of_the_runs(runs):
    found = Collected.of_folder(runs)
    assert len(found.runs) == 8
    assert len(found.patients) == 8 * 3
    cohort = fabricated_runs.cohort()
    sizes = {int(cohort.masks[cohort.patient_ids == p].sum()) for p in cohort.patients}
    assert set(found.patients["pixels"]) == sizes
    assert set(found.runs["revision"]) == {"ab" * 6}
    assert list(found.scores["label"].unique()) == ["baseline", "full"]


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    data = fabricated_runs.cohort()
    for epochs in (1, 2):
        fabricated_runs.run(tmp_path, data, arch="cnn", recipe="full", epochs=epochs)
    with pytest.raises(ValueError, match="2 groups of runs that differ"):
        Collected.of_folder(tmp_path)
    with pytest.raises(ValueError, match=r"has no runs\.csv, patients\.csv, inside\.csv; name the"):
        Collected.read(tmp_path)


def test_a_complete_study_and_one_that_lacks_something(tmp_path, monkeypatch):
    whole = study(patients=4)
    assert missing(coverage(whole)) == []
    monkeypatch.setattr(made, "compared", functools.partial(compared, metrics=("auprc",)))
    tables = all_tables(whole, 50)
    whole.write(tmp_path)
    tables.write(tmp_path)
    text = filled(PAGE, tmp_path, tmp_path / "page.md")
    assert "**Complete as stated: 60 runs.**" in text
    assert "Recipes of the paper that no architecture has: forward_only+rht (7), chain" in text
    for arch, label in (("CNN", "full (1)"), ("Swin", "2d+rht+sr (5)")):
        row = tables.contrasts[
            (tables.contrasts["contrast"] == "recipes")
            & (tables.contrasts["metric"] == "auprc")
            & (tables.contrasts["arch"] == arch.lower())
            & (tables.contrasts["b"] == label.split()[0])
        ].iloc[0]
        assert f"| {arch} 500K | `{label}` | AUPRC | 20 | {row['difference']:.4f} (" in text
    assert missing(coverage(without(whole, arch="vit", recipe="full", split="fold0"))) == [
        "ViT 500K: full (1) 1 of 5 folds"
    ]
    read = Tables.read(tmp_path)
    assert list(read.coverage["label"].unique())[:2] == [STATED[0], STATED[2]]
    pd.testing.assert_frame_equal(read.means, tables.means, check_dtype=False, rtol=1e-5)


def test_a_page_must_have_places_that_there_are(tmp_path):
    study(patients=2, archs=("cnn",), labels=("baseline",)).write(tmp_path)
    all_tables(Collected.read(tmp_path), 10).write(tmp_path)
    page = tmp_path / "page.md"
    with pytest.raises(ValueError, match=r"has no place for a table; write <!-- NAME -->"):
        filled("# nothing", tmp_path, page)
    with pytest.raises(ValueError, match=r"a table <!-- claim -->; allowed: status, "):
        filled("<!-- claim -->\n<!-- end -->", tmp_path, page)


def test_a_page_may_have_tables_of_another_study(tmp_path):
    for name, patients in (("one", 2), ("other", 3)):
        own = study(patients=patients, archs=("cnn",), labels=("baseline",))
        own.write(tmp_path / name)
        all_tables(own, 10).write(tmp_path / name)
    text = "<!-- means -->\n<!-- end -->\n<!-- means of ../other -->\nold\n<!-- end -->\n"
    page = tmp_path / "pages" / "page.md"
    page.parent.mkdir()
    once = filled(text, tmp_path / "one", page)
    first, second = once.split("<!-- means of ../other -->\n")
    assert "| 10 |" in first
    assert "| 15 |" in second
    assert "old" not in second
    assert filled(once, tmp_path / "one", page) == once


@pytest.mark.slow
def test_committed_tables_follow_from_the_committed_scores():
    folder = ROOT / "experiments" / "results" / "lgg_cv_64"
    again, there = all_tables(Collected.read(folder)), Tables.read(folder)
    for name in ("coverage", "means", "contrasts", "claims"):
        own, other = getattr(again, name), getattr(there, name)
        pd.testing.assert_frame_equal(own, other, check_dtype=False, rtol=1e-4, atol=1e-7)
    # The optimizer's last digits are the processor's.
    own, other = (one.variances.drop(columns="converged") for one in (again, there))
    pd.testing.assert_frame_equal(own, other, check_dtype=False, rtol=1e-2, atol=1e-4)
