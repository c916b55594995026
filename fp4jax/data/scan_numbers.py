"""Which scans are of one patient by what the other names of a data set are like.

A number at the end of a name is that of a scan only if several names differ in nothing else. Each
rule takes the keys of all scans and returns those that are shortened.
"""

import collections
import re
from collections.abc import Callable, Sequence

from fp4jax.data.scan_names import IS_TIME, Key

_MOST_SCANS = 20  # of one patient: more are rather patients of one site

_PERSON = re.compile(
    r"(?:patients?(?:[-_ ]?id)?|pat|pt|p|sub(?:j(?:ect)?)?|participant|person|proband|case|pid|id"
    r"|mrn|s)[-_ ]?\d+[a-z]?|.*\d{3,}",
    re.IGNORECASE,
)
_NO_PERSON = re.compile(
    r"(?:sites?|cent(?:er|re)s?|hospital|scanner|group|batch|cohort|fold|part|data[-_ ]?set|task"
    r"|set|brats|study|release|version|v|vol|year)[-_ ]?\d*|(?:.*\D)?(?:19|20)\d\d"
    r"|(?:task|dataset)\d+_.*",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<patient>.*\d[A-Za-z]?)[-_. ](?P<scan>\d{1,3})")
_LETTERED = re.compile(r"(?P<patient>.*\d)(?P<scan>[a-dA-D])")
_TWO_AND_TWO = re.compile(r"(?P<patient>(?:.*\D)?\d\d)(?P<scan>\d\d)")


def shortened(keys: Sequence[Key], rules: Sequence[str]) -> tuple[list[Key], list[str]]:
    """Keys without the numbers of scans, and the rule that each was shortened by last.

    Args:
        keys: of all scans of a data set.
        rules: those that led to the keys.

    Example:
        >>> shortened([("P1_1",), ("P1_2",), ("P2_1",)], ["", "", ""])[0]
        [('P1',), ('P1',), ('P2',)]
    """
    keys, rules = list(keys), list(rules)
    _apply(keys, rules, _people, "folders of patients")
    _apply(keys, rules, _numbered, "numbers at the end of names")
    _apply(keys, rules, _lettered, "letters at the end of names")
    _apply(keys, rules, _two_and_two, "two digits for the patient, two for the scan")
    _apply(keys, rules, _spelt, "names that differ in capital letters")
    return keys, rules


def _apply(
    keys: list[Key],
    rules: list[str],
    rule: Callable[[Sequence[Key]], dict[Key, Key]],
    why: str,
) -> None:
    shorter = rule(keys)
    for i, key in enumerate(keys):
        if key in shorter:
            keys[i], rules[i] = shorter[key], why


def _people(keys: Sequence[Key]) -> dict[Key, Key]:
    """What lies in a patient's folder is of that patient."""
    found = {}
    for key in set(keys):
        for i, part in enumerate(key[:-1]):
            if _PERSON.fullmatch(part) and not _NO_PERSON.fullmatch(part):
                found[key] = key[: i + 1]
                break
    return found if _are_patients(collections.Counter(found.values())) else {}


def _numbered(keys: Sequence[Key]) -> dict[Key, Key]:
    """Numbers after an id: of one or two digits, or of three that count from 0 or 1 in each id."""
    found, numbers = {}, collections.defaultdict(list)
    for key in set(keys):
        if IS_TIME.fullmatch(key[-1]):  # nothing but a date
            continue
        match = _NUMBERED.fullmatch(key[-1])
        if match is None and len(key) > 1 and key[-1].isdecimal() and len(key[-1]) <= 2:
            head, scan = key[:-1], key[-1]
        elif match is not None:
            head, scan = (*key[:-1], match["patient"]), match["scan"]
        else:
            continue
        token = re.split(r"[-_. ]", head[-1])[-1]
        if any(c.isdigit() for c in token) and not _NO_PERSON.fullmatch(token):
            found[key] = head
            numbers[head].append(scan)
    counted = all(
        len(scan) < 3 or min(map(int, scans)) <= 1 for scans in numbers.values() for scan in scans
    )
    counts = collections.Counter(found.values())
    return found if counted and _are_patients(counts) else {}


def _lettered(keys: Sequence[Key]) -> dict[Key, Key]:
    """0998a and 0998b, where every patient has an a."""
    found, letters = {}, collections.defaultdict(set)
    for key in set(keys):
        if match := _LETTERED.fullmatch(key[-1]):
            found[key] = (*key[:-1], match["patient"])
            letters[found[key]].add(match["scan"].lower())
    every_a = all("a" in scans for scans in letters.values())
    return found if every_a and _are_patients(collections.Counter(found.values())) else {}


def _two_and_two(keys: Sequence[Key]) -> dict[Key, Key]:
    """genius_0800: only if all names are so, and each patient's scans count from 0 or 1."""
    found, numbers = {}, collections.defaultdict(list)
    for key in set(keys):
        match = _TWO_AND_TWO.fullmatch(key[-1])
        if match is None:
            return {}
        found[key] = (*key[:-1], match["patient"])
        numbers[found[key]].append(int(match["scan"]))
    if len({key[-1][:-2] for key in found.values()}) > 1:
        return {}
    counted = all(
        sorted(scans) in (list(range(len(scans))), list(range(1, len(scans) + 1)))
        for scans in numbers.values()
    )
    several = any(len(scans) > 1 for scans in numbers.values())
    return (
        found if counted and several and _are_patients(collections.Counter(found.values())) else {}
    )


def _are_patients(counts: collections.Counter[Key]) -> bool:
    """Whether these may be the numbers of scans of patients."""
    return len(counts) > 1 and max(counts.values()) <= _MOST_SCANS


def _spelt(keys: Sequence[Key]) -> dict[Key, Key]:
    """Patient1 and patient1: one folder on systems that do not tell their letters apart."""
    found: dict[Key, Key] = {}
    first: dict[Key, Key] = {}
    for key in sorted(set(keys)):
        other = first.setdefault(tuple(part.casefold() for part in key), key)
        if other != key:
            found[key] = other
    return found
