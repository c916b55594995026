"""Keep lists beside a study: collected, compared from their scores, shown in a page."""

import pandas as pd
import pytest

from fp4jax.analysis.claims import Collected, all_tables, filled
from fp4jax.analysis.claims.keep_lists import compare_lists, copy_lists, find_lists, write_lists
from tests.fabricated_scores import study

PAGE = "<!-- keep lists -->\n<!-- end -->\n<!-- keep lists patients -->\n<!-- end -->\n"
NAMES = [f"keep_lists_2d-rht-sr{end}.csv" for end in ("", "_patients", "_contrasts")]


@pytest.fixture
def made(tmp_path):
    """A folder with the files of two lists: one costs every patient 0.2."""
    whole = study(archs=("cnn",), labels=("full", "sr"), loss={("cnn", "full"): 0.2})
    scores = whole.scores.replace({"label": {"full": "nothing", "sr": "proposed"}})
    rows = pd.DataFrame({"model": ["cnn"] * 2, "layers kept": ["none", "fold0: a; fold1: b"]})
    written = write_lists(rows, scores, "2d+rht+sr", tmp_path / "made")
    assert [path.name for path in written] == NAMES
    return tmp_path / "made"


def test_they_are_copied_and_compared_anew(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "keep_lists_sr.csv").write_text("of an earlier call")
    copy_lists(find_lists([tmp_path, made]), out)
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    (out / NAMES[2]).unlink()
    assert compare_lists(out) == [out / NAMES[2]]
    for name in NAMES:
        assert (out / name).read_bytes() == (made / name).read_bytes()
    # Once more from there.
    copy_lists(find_lists([out]), out)
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)


def test_a_page_shows_them(made):
    own = study(patients=2, archs=("cnn",), labels=("baseline",))
    own.write(made)
    all_tables(Collected.read(made), 10).write(made)
    lists, contrasts = filled(PAGE, made, made / "page.md").split("<!-- keep lists patients -->")
    assert "| cnn | fold0: a; fold1: b |" in lists
    first, *_ = (line for line in contrasts.splitlines() if "nothing - proposed" in line)
    assert first.startswith("| CNN 500K | nothing - proposed | AUPRC | 55 | -0.1985 (")
    assert first.endswith("| differs |")
    for path in made.glob("keep_lists*"):
        path.unlink()
    assert filled(PAGE, made, made / "page.md").count("Not measured yet.") == 2


def test_other_files_of_that_name_are_refused_before_any_is_copied(tmp_path):
    (tmp_path / NAMES[1]).write_text("metric,arch\nauprc,cnn\n")
    with pytest.raises(ValueError, match=r"_patients\.csv has no column scale, label, split"):
        find_lists([tmp_path])
