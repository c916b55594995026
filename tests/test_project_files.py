"""What others read of the project: citation, changes, CI, templates, metadata."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import fp4jax

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"


def loaded(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def person_or_entity(author: dict[str, str]) -> bool:
    """As the schema of CFF 1.2.0 has it."""
    return set(author) <= {"name"} or "family-names" in author


def test_citation():
    """The required keys of CFF 1.2.0, with the types of its schema; the package's version."""
    cff = loaded(ROOT / "CITATION.cff")
    assert cff["cff-version"] == "1.2.0"
    for key in ("message", "title", "abstract", "license", "version"):
        assert isinstance(cff[key], str)
        assert cff[key]
    assert cff["type"] in ("software", "dataset")
    assert cff["version"] == fp4jax.__version__
    known = {
        "cff-version", "message", "type", "title", "abstract", "authors", "version", "license",
        "keywords", "references", "date-released", "url", "repository-code", "doi",
    }  # fmt: skip
    assert set(cff) <= known
    assert all(isinstance(word, str) for word in cff["keywords"])
    assert len(set(cff["keywords"])) == len(cff["keywords"])
    (paper,) = cff["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert isinstance(paper["year"], int)
    for author in cff["authors"] + paper["authors"]:
        assert person_or_entity(author)


def test_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert loaded(ROOT / "CITATION.cff")["license"] == project["license"]
    extras = project["optional-dependencies"]
    assert set(extras) == {
        "study", "volumes", "deploy", "ray", "track", "test", "docs", "bench", "peers",
    }  # fmt: skip
    # What makes a fresh install long belongs to no extra of `make test`.
    names = {re.match(r"[\w-]+", one)[0] for one in extras["test"]}  # type: ignore[index]
    assert "tensorboardX" in names
    assert not names & {"mlflow", "mlflow-skinny", "wandb"}
    pinned_extras = [names for name, names in extras.items() if name != "peers"]
    for minor in ("3.11", "3.13"):
        pins = (ROOT / f"constraints-{minor}.txt").read_text()
        lines = [line for line in pins.splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.!+]+", line) for line in lines)
        pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
        for names in (*pinned_extras, project["dependencies"]):
            for name in names:
                name = re.match(r"[\w.-]+", name)[0]  # type: ignore[index]
                assert name.lower().replace("_", "-") in pinned | {"fp4jax"}


def test_the_newest_changes_are_first():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.index("## Unreleased") < text.index(fp4jax.__version__)


@pytest.mark.parametrize(
    ("name", "commands"),
    [("ci.yml", [".ci/run"]), ("nightly.yml", ["make test-slow", "make docs test-docs"])],
)
def test_workflows(name, commands):
    workflow = loaded(GITHUB / "workflows" / name)
    # YAML 1.1 reads the key "on" as true.
    assert workflow[True]
    jobs = workflow["jobs"].values()
    assert [job["steps"][-1]["run"] for job in jobs] == commands
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for job, command in zip(jobs, commands, strict=True):
        assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
        if command.startswith("make "):
            assert set(command.split()[1:]) <= set(targets)
    assert (ROOT / ".ci" / "run").exists()


def test_issue_templates():
    templates = sorted(GITHUB.glob("ISSUE_TEMPLATE/*.md"))
    assert len(templates) == 3
    for path in templates:
        _, front, body = path.read_text().split("---\n", 2)
        assert {"name", "about"} <= set(yaml.safe_load(front))
        assert body.strip()


def test_pre_commit_runs_the_ruff_of_make_lint():
    (local,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [hook["id"] for hook in local["hooks"]] == ["ruff-check", "ruff-format"]
    assert all(hook["entry"].startswith(".venv/bin/ruff ") for hook in local["hooks"])
