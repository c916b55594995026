"""Which scans are of one patient: by the names of files and folders, or by a pattern of one's own.

A split that puts one examination of a patient on each side measures memory. So names are read with
caution: where a rule below says that two scans may be of one person, they are.

    sub-01/ses-02                          BIDS: the subject
    P001/2019-01-11, 2019-01-11/P001       dates, sessions, visits, weeks are no part of a patient
    TCGA-02-0006_1996.08.23, 100002_time1  nor at the end of a name
    Patient-007/anything                   a folder in a patient's folder is a scan
    UPENN-GBM-00001_11, _21; 0998a, 0998b  numbers or letters after an id that several ids have
    genius_0800, genius_0801, genius_0900  two digits for the patient, two for the scan
"""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence

_MOST_SCANS = 20  # of one patient: more are rather patients of one site

_DATE = (
    r"(?:(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|[12]\d|3[01])[-_.](?:0[1-9]|[12]\d|3[01])[-_.](?:19|20)\d\d)"
    r"(?:[-_T ]?\d\d[-_.:]?\d\d(?:[-_.:]?\d\d)?)?"
)
_COUNTED = (
    r"(?:ses(?:sion)?|visite?|vis|v|time[-_ ]?points?|timept|time|tp|t|scan|exam(?:ination)?|study"
    r"|mr|follow[-_ ]?up|fup?|months?|mo|m|weeks?|wk|w|days?|d|years?|y|frame|run|rep|acq|phase)"
)
_NAMED = (
    r"(?:ses(?:sion)?-[A-Za-z0-9]+|base(?:line)?|bl|follow[-_ ]?up|fu|pre[-_ ]?op|post[-_ ]?op|pre"
    r"|post|initial|retest|test|left|right|lh|rh|l|r|ed|es|first|second|third|last)"
)
_TIME = rf"(?:{_DATE}|{_COUNTED}[-_ ]?\d+[a-z]?(?:[-_]\d+)?|{_NAMED})"
_IS_TIME = re.compile(_TIME, re.IGNORECASE)
_ENDS_WITH_TIME = re.compile(rf"(?P<patient>.*\d.*?|[^\d]{{3,}}?)[-_. ]{_TIME}", re.IGNORECASE)

# Folders that sort files, not patients.
_SORTING = re.compile(
    r"(?:derivatives|raw(?:data)?|sourcedata|source|nifti|nii|dicom|data|mri?|ct|anat|scan|exam|session|visit|images?|imgs?"
    r"|labels?|masks?|segs?|train(?:ing)?|val(?:id(?:ation)?)?|(?:images|labels)(?:tr|ts|val)"
    r"|test(?:ing)?|training[-_ ]?data|validation[-_ ]?data|hgg|lgg|preproc(?:essed)?)",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
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
# BraTS numbers the examinations of its patients at the end.
_BRATS = re.compile(
    r"(?P<patient>BraTS-[A-Za-z]+(?:-[A-Za-z]+)?-\d+|brats_(?:2013|tcia)_pat\d+)[-_]\d+",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<patient>.*\d[A-Za-z]?)[-_. ](?P<scan>\d{1,3})")
_LETTERED = re.compile(r"(?P<patient>.*\d)(?P<scan>[a-dA-D])")
_TWO_AND_TWO = re.compile(r"(?P<patient>(?:.*\D)?\d\d)(?P<scan>\d\d)")

Key = tuple[str, ...]


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
        key, rule = _key(scan)
        keys.append(key)
        rules.append(rule)
    _apply(keys, rules, _people, "folders of patients")
    _apply(keys, rules, _numbered, "numbers at the end of names")
    _apply(keys, rules, _lettered, "letters at the end of names")
    _apply(keys, rules, _two_and_two, "two digits for the patient, two for the scan")
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
    return _key(Scan(name))[0][-1]


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


def _key(scan: Scan) -> tuple[Key, str]:
    """A scan's name without what says when it was taken, and why."""
    parts = [part for part in (scan.place or scan.id).split("/") if part]
    for text in (*parts, scan.id):
        if match := _BRATS.fullmatch(text):
            return (match["patient"],), "BraTS' numbers of examinations"
    for i, part in enumerate(parts):
        if subject := _SUBJECT.match(part):
            above = _sites(parts[:i])
            return (*above, subject[0]), "subjects of BIDS" if parts[i:] != [subject[0]] else ""
    if scan.place and (subject := _SUBJECT.match(scan.id)):
        return (*_sites(parts[:-1]), subject[0]), "subjects of BIDS"
    own = [part for part in parts if not _SORTING.fullmatch(part)] or parts[-1:]
    kept = [part for part in own if not _IS_TIME.fullmatch(part)]
    if not kept:
        # study_001/scan_1: the uppermost is more of a patient than what is in it
        return tuple(own[:1]), ""
    key = tuple(_without_time(part) for part in kept)
    timed = len(kept) < len(own) or key != tuple(kept)
    # P001/P001_2019-01-11 is one name
    key = tuple(part for i, part in enumerate(key) if i == 0 or part != key[i - 1])
    return key, "dates and time points in names" if timed else ""


def _sites(parts: Sequence[str]) -> Key:
    """The folders above subjects that may tell two subjects of one name apart."""
    kept: list[str] = []
    for part in parts:
        if part.lower() == "derivatives":
            return tuple(kept)
        if not (_SORTING.fullmatch(part) or _IS_TIME.fullmatch(part)):
            kept.append(part)
    return tuple(kept)


def _without_time(name: str) -> str:
    while match := _ENDS_WITH_TIME.fullmatch(name):
        name = match["patient"]
    return name


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
        if _IS_TIME.fullmatch(key[-1]):  # nothing but a date
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
