"""Keep lists beside a study: collected, compared from their scores, shown in a page."""

import pandas as pd
import pytest

from fp4jax.analysis.claims import Collected, all_tables, filled
from fp4jax.analysis.claims.keep_lists import compare_lists, copy_lists, find_lists, write_lists
from tests.fabricated_scores import study

PAGE = "".join(f"<!-- keep lists{of} -->\n<!-- end -->\n" for of in ("", " layers", " patients"))
ENDS = ("", "_layers", "_patients", "_contrasts")
NAMES = [f"keep_lists_2d-rht-sr{end}.csv" for end in ENDS]


@pytest.fixture
def made(tmp_path):
    """A folder with the files of two lists: one costs every patient 0.2."""
    whole = study(archs=("cnn",), labels=("full", "sr"), loss={("cnn", "full"): 0.2})
    scores = whole.scores.replace({"label": {"full": "nothing", "sr": "proposed"}})
    rows = pd.DataFrame({"model": ["cnn"] * 2, "layers kept": ["none", "fold0: a; fold1: b"]})
    costs = [("fold0", "a", 0.1, True), ("fold0", "b", 0.0, False)]
    costs += [("fold1", "a", 0.2, False), ("fold1", "b", 0.3, True)]
    layers = pd.DataFrame(costs, columns=["split", "layer", "kl", "proposed"])
    layers = layers.assign(arch="cnn", gradient=0.5, multiply_adds=[10, 30, 10, 30])
    written = write_lists(rows, layers, scores, "2d+rht+sr", tmp_path / "made")
    assert [path.name for path in written] == NAMES
    return tmp_path / "made"


def test_they_are_copied_and_compared_anew(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "keep_lists_sr.csv").write_text("of an earlier call")
    copy_lists(find_lists([tmp_path, made]), out)
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    (out / NAMES[3]).unlink()
    assert compare_lists(out) == [out / NAMES[3]]
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
    assert "| CNN | `a` | 25.0% | 0.15 (0.1 to 0.2) | 0.5 (0.5 to 0.5) | 1 of 2 |" in lists
    first, *_ = (line for line in contrasts.splitlines() if "nothing - proposed" in line)
    assert first.startswith("| CNN 500K | nothing - proposed | AUPRC | 55 | -0.1985 (")
    assert first.endswith("| differs |")
    for path in made.glob("keep_lists*"):
        path.unlink()
    assert filled(PAGE, made, made / "page.md").count("Not measured yet.") == 3


def test_other_files_of_that_name_are_refused_before_any_is_copied(tmp_path):
    (tmp_path / NAMES[2]).write_text("metric,arch\nauprc,cnn\n")
    with pytest.raises(ValueError, match=r"_patients\.csv has no column scale, label, split"):
        find_lists([tmp_path])
