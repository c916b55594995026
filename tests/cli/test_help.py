"""What --help says: each option its own text, each section its own, examples, nothing in Python."""

import re

import pytest

from fp4jax.cli.program import VERBS, load

_RULE = re.compile(r" +-+ *")


def sections(text: str) -> dict[str, list[list[str]]]:
    """Title -> paragraphs of a box: what it is about, and its options with their texts."""
    found: dict[str, list[list[str]]] = {}
    lines = text.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        words = line.strip()
        if re.match(r" \S", line) and not _RULE.fullmatch(line) and _RULE.fullmatch(after):
            own = found.setdefault(words, [])
        elif found and words and not _RULE.fullmatch(line):
            if re.match(r"  \S", line):
                own.append([words])
            else:
                own[-1].append(words)
    return found


def texts(paragraphs: list[list[str]]) -> dict[str, str]:
    """Option -> its text, without its default."""
    found = {}
    for first, *more in paragraphs:
        name, _, rest = first.partition("  ")
        text = " ".join([rest.strip(), *more]).strip()
        if name.startswith("-"):
            option = name.split()[0].rstrip(",")
            found[option] = re.sub(r" ?\((?:default: .*|required)\)$", "", text)
    return found


@pytest.mark.parametrize("name", VERBS)
def test_each_option_has_a_text_of_its_own(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    argv = ["demo", "--help"] if name == "study" else ["--help"]
    with pytest.raises(SystemExit) as stop:
        load(name).run(argv, prog=f"fp4jax {name}")
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Python" not in said.replace("The variable PYTHON names the Python of", "")
    if name != "study":
        assert re.search(r"^    (srun )?fp4jax ", said, re.MULTILINE), "an example"
    options: dict[str, str] = {}
    for title, paragraphs in sections(said).items():
        own = texts(paragraphs)
        assert not set(own) & set(options)
        options |= own
        if title not in ("options", "positional arguments"):
            ((about, *_), *_) = paragraphs
            assert not about.startswith("-"), f"{title} says nothing of itself"
            assert about[0].isupper(), f"{title}: the text of an option"
    assert options
    same: dict[str, list[str]] = {}
    for option, text in options.items():
        assert text, f"{option} has no text"
        same.setdefault(text, []).append(option)
    assert not [names for names in same.values() if len(names) > 1]
