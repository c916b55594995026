"""What tyro refuses, in one line: it frames messages in boxes of many."""

import re
from collections.abc import Iterator

# In Unicode or, where the output has none, in ASCII.
_FRAME = re.compile(r"[╭╮╰╯│─]+|-{3,}|^[|+]|[|+]$", re.MULTILINE)
_NO_NUMBER = {
    r"invalid literal for int\(\) with base 10: (.*)": r"\1 is no integer",
    r"could not convert string to float: (.*)": r"\1 is no number",
    # Of an option that is None by default.
    r"no type matching \{None\}\|(\S+) could be instantiated from \[(.*?)\]\..*": r"\2 is no \1",
}


def refusal(stop: SystemExit, box: str) -> ValueError:
    r"""The error behind the box that tyro printed, in one line.

    Example:
        >>> box = "Unrecognized options: nope\n---\nAvailable subcommands: demo, paper-cv\n"
        >>> refusal(SystemExit(2), box)
        ValueError('no subcommand nope; allowed: demo, paper-cv. See --help.')
    """
    words = " ".join(_FRAME.sub(" ", box).split())
    words = re.split(r" For full helptext| Argument helptext:", words)[0]
    said = re.search(r"Error parsing (\S*): (.*)", words)
    if said is None:
        words = re.sub(r"^(Parsing error|Missing argument|Unrecognized options) ", "", words)
        words = _unknown(words) or _missing(words, box) or _CHOICE.sub(_choice, words)
    elif said[1].startswith("-"):
        text = said[2]
        for pattern, clearer in _NO_NUMBER.items():
            text = re.sub(pattern, clearer, text)
        words = f"{said[1]}: {text}"
    else:
        # Not of one flag, so that the values themselves were refused, by what they are given to.
        for error in _causes(stop):
            if isinstance(error, ValueError):
                return error
        words = said[2]
    return ValueError(f"{words.rstrip('. ')}. See --help.")


def _unknown(words: str) -> str | None:
    """Of what is no option: what it may have been meant to be."""
    found = re.match(r"Unrecognized options: (.*?)(?= Perhaps| Arguments| Available|$)(.*)", words)
    if found is None:
        return None
    given, more = found.groups()
    if subcommands := re.search(r"Available subcommands: (.*)", more):
        return f"no subcommand {given}; allowed: {subcommands[1]}"
    kind = "options" if given.startswith("-") else "arguments"
    near = re.findall(r"(?:Perhaps you meant|Arguments similar to (\S+)): ([^\s,]+)", more)
    # In the order of the command line: tyro's is another one each time.
    near.sort(key=lambda pair: given.find(pair[0]))
    hint = f"; perhaps you meant {', '.join(name for _, name in near)}" if near else ""
    return f"unrecognized {kind}: {given}{hint}"


def _missing(words: str, box: str) -> str | None:
    """Of what must be given."""
    if words.startswith("Missing subcommand"):
        return re.sub(r".*\{(.*)\}.*", r"no subcommand; give one of \1", words)
    if not re.match("Required options? ", words):
        return None
    # After these it says how to get help.
    named = _OPTION.findall(box.partition("For full helptext")[0])
    return f"missing: {', '.join(named)}" if named else None


# What it means stands further to the right.
_OPTION = re.compile(r"^[│| ] {5}(\S.*?) *[│|]?$", re.MULTILINE)
# The box has the phrase in its title, too.
_CHOICE = re.compile(
    r"^Invalid choice invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)"
)


def _choice(found: re.Match[str]) -> str:
    """In the order of the alphabet: tyro's is another one each time."""
    allowed = sorted(re.findall(r"'([^']*)'", found[3]), key=lambda name: (name == "None", name))
    return f"{found[2]}: invalid choice '{found[1]}'; allowed: {', '.join(allowed)}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What led to an error, the last first."""
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
