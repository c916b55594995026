"""Which scans are of one patient: by the names of files and folders, or by a pattern of one's own.

A split that puts one examination of a patient on each side measures memory. So names are read with
caution: where a rule below says that two scans may be of one person, they are.

    sub-01/ses-02                          BIDS: the subject
    P001/2019-01-11, 2019-01-11/P001       dates, sessions, visits, weeks are no part of a patient
    TCGA-02-0006_1996.08.23, 100002_time1  nor at the end of a name, nor a date before it
    Doe, J/2018-09-03 MRT Kopf, 2018/Doe   nor an examination in words, nor a year above
    Patient-007/anything                   a folder in a patient's folder is a scan
    UPENN-GBM-00001_11, _21; 0998a, 0998b  numbers or letters after an id that several ids have
    genius_0800, genius_0801, genius_0900  two digits for the patient, two for the scan
    Patient1, patient1                     one name, in capital letters or not
"""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Sequence

from fp4jax.data.scan_names import key_of
from fp4jax.data.scan_numbers import shortened


@dataclasses.dataclass(frozen=True)
class Scan:
    """The name of a scan, and where it lies below the root, with ``/`` between folders."""

    id: str
    place: str = ""


@dataclasses.dataclass(frozen=True)
class Patient:
    """The patient of a scan, and the rule that said so; no rule where the scan's own name is it."""

    id: str
    rule: str = ""


def group(scans: Sequence[Scan], pattern: str | None = None) -> list[Patient]:
    """The patient of each scan.

    Args:
        scans: all of a data set: whether a number at the end of a name is that of a scan shows in
            the other names.
        pattern: a regular expression that is looked for in a scan's id, then in its place below the
            root; the patient is its group ``patient``, else its first group, else all of it. None:
            the rules of this module.

    Raises:
        ValueError: no regular expression, or one that scans do not match.

    Example:
        >>> scans = [Scan("2019-01-11", "P1/2019-01-11"), Scan("b", "P1/2020"), Scan("c", "P2")]
        >>> [patient.id for patient in group(scans[:1] + scans[2:])]
        ['P1', 'P2']
        >>> [patient.id for patient in group(scans[:2], "(P[0-9])")]
        ['P1', 'P1']
    """
    if pattern is not None:
        return [Patient(name, "--patient-pattern") for name in _by_pattern(scans, pattern)]
    keys, rules = [], []
    for scan in scans:
        key, rule = key_of(scan.id, scan.place)
        keys.append(key)
        rules.append(rule)
    keys, rules = shortened(keys, rules)
    last = {key: key[-1] for key in keys}
    often = collections.Counter(last.values())
    return [
        Patient(last[key] if often[last[key]] == 1 else "_".join(key), rule)
        for key, rule in zip(keys, rules, strict=True)
    ]


def alone(name: str) -> str:
    """The patient of a scan of which only the name is known.

    Example:
        >>> [alone(name) for name in ("BraTS-GLI-00012-001", "sub-01_ses-02", "P7_2019-01-11")]
        ['BraTS-GLI-00012', 'sub-01', 'P7']
    """
    return key_of(name)[0][-1]


def pattern_problem(pattern: str) -> str | None:
    """What is wrong with a regular expression, if anything."""
    try:
        re.compile(pattern)
    except re.error as error:
        return (
            f"patient_pattern is {pattern!r}, which is no regular expression ({error}); give one "
            r"whose group is the patient, such as '(P\d+)'."
        )
    return None


def _by_pattern(scans: Sequence[Scan], pattern: str) -> list[str]:
    problem = pattern_problem(pattern)
    if problem:
        raise ValueError(problem)
    expression, names, unknown = re.compile(pattern), [], []
    for scan in scans:
        match = expression.search(scan.id) or expression.search(scan.place)
        found = match and (
            match["patient"] if "patient" in expression.groupindex else match[bool(match.re.groups)]
        )
        names.append(unicodedata.normalize("NFC", found or ""))
        if not found:
            unknown.append(scan.id if scan.place in ("", scan.id) else f"{scan.id} ({scan.place})")
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(
            f"patient_pattern is {pattern!r}, in which {', '.join(unknown[:3])}{more} have no "
            "patient; give one that matches the name of every scan."
        )
    return names


def together(ids: Sequence[str], same: Sequence[Sequence[str]]) -> dict[str, str]:
    """Patients that were found to be one -> the first of them by name.

    Args:
        ids: of all patients.
        same: groups of patients that are one.

    Example:
        >>> together(["a", "b", "c", "d"], [["b", "c"], ["c", "d"]])
        {'a': 'a', 'b': 'b', 'c': 'b', 'd': 'b'}
    """
    first = {one: one for one in ids}

    def find(one: str) -> str:
        while first[one] != one:
            one = first[one]
        return one

    for group_ in same:
        roots = sorted({find(one) for one in group_})
        for root in roots[1:]:
            first[root] = roots[0]
    return {one: find(one) for one in ids}


def listing(scans: Sequence[Scan], patients: Sequence[Patient], most: int = 10) -> list[str]:
    """Lines for people: how scans were grouped, and the patients that have several.

    Example:
        >>> scans = [Scan("P1_t1"), Scan("P1_t2"), Scan("P2_t1")]
        >>> print("\\n".join(listing(scans, group(scans))))
        scans by patient: dates and time points in names
          P1: P1_t1, P1_t2
    """
    own = collections.defaultdict(list)
    for scan, patient in zip(scans, patients, strict=True):
        own[patient.id].append(scan)
    several = {name: ids for name, ids in own.items() if len(ids) > 1}
    if not several:
        return [
            "scans by patient: one of each; if a patient has several, say with --patient-pattern "
            "which part of a name is the patient"
        ]
    grouped = {patient.rule for patient in patients if patient.id in several and patient.rule}
    lines = [f"scans by patient: {'; '.join(sorted(grouped)) or 'names'}"]
    for name, ids in sorted(several.items())[:most]:
        shown = ", ".join(scan.id for scan in ids[:5]) + ", ..." * (len(ids) > 5)
        lines.append(f"  {name}: {shown}")
    if len(several) > most:
        lines.append(f"  and {len(several) - most} more patients with several scans")
    return lines
