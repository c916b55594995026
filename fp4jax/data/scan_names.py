"""A scan's name without what says when it was taken, and why: dates, sessions, time points.

What remains is its key: the parts of the name that may be of a patient, site and folders first.
"""

import re
from collections.abc import Sequence

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
#: Nothing but a date, a session or a time point.
IS_TIME = re.compile(_TIME, re.IGNORECASE)
_ENDS_WITH_TIME = re.compile(rf"(?P<patient>.*\d.*?|[^\d]{{3,}}?)[-_. ]{_TIME}", re.IGNORECASE)

# An examination in words, as exports name its folder: 2018-09-03 MRT Kopf, Serie 2.
_WORD = (
    r"(?:mrt?|mri|irm|ct|pet|head|brain|skull|kopf|sch(?:ä|ae|a)del|hirn|gehirn|t[12]w?|flair|dwi|km"
    r"|contrast|kontrast(?:mittel)?|control|kontrolle|verlauf|untersuchung|examination|exam|study"
    r"|studie|scan|s[eé]ries?(?:[-_. ]?\d+)?|serien?(?:[-_. ]?\d+)?)"
)
_WORDS = rf"{_WORD}(?:[-_., ]+{_WORD})*"
_EXAMINATION = re.compile(rf"(?:{_DATE}[-_., ]+)?{_WORDS}(?:[-_., ]+{_DATE})?", re.IGNORECASE)
_BEGINS_WITH_DATE = re.compile(
    rf"{_DATE}[-_., ]+(?P<patient>(?![-_. ]).*\d.*|[^\d]{{3,}})", re.IGNORECASE
)
_YEAR = re.compile(r"(?:19|20)\d\d")

# Folders that sort files, not patients.
_SORTING = re.compile(
    r"(?:derivatives|raw(?:data)?|sourcedata|source|nifti|nii|dicom|data|mri?|ct|anat|scan|exam|session|visit|images?|imgs?"
    r"|labels?|masks?|segs?|train(?:ing)?|val(?:id(?:ation)?)?|(?:images|labels)(?:tr|ts|val)"
    r"|test(?:ing)?|training[-_ ]?data|validation[-_ ]?data|hgg|lgg|preproc(?:essed)?)",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
# BraTS numbers the examinations of its patients at the end.
_BRATS = re.compile(
    r"(?P<patient>BraTS-[A-Za-z]+(?:-[A-Za-z]+)?-\d+|brats_(?:2013|tcia)_pat\d+)[-_]\d+",
    re.IGNORECASE,
)

Key = tuple[str, ...]


def is_examination(name: str) -> bool:
    """Whether a name says when or what was examined, and nothing of whom.

    Example:
        >>> [is_examination(name) for name in ("2018-09-03", "MRT Kopf", "P001_2018-09-03")]
        [True, True, False]
    """
    return bool(IS_TIME.fullmatch(name) or _EXAMINATION.fullmatch(name))


def key_of(name: str, place: str = "") -> tuple[Key, str]:
    """The key of a scan, and the rule that shortened its name, if one did.

    Args:
        name: of the scan.
        place: where it lies below the root, with ``/`` between folders.

    Example:
        >>> key_of("2019-01-11", "P001/2019-01-11")
        (('P001',), 'dates and time points in names')
    """
    parts = [part for part in (place or name).split("/") if part]
    for text in (*parts, name):
        if match := _BRATS.fullmatch(text):
            return (match["patient"],), "BraTS' numbers of examinations"
    for i, part in enumerate(parts):
        if subject := _SUBJECT.match(part):
            above = _sites(parts[:i])
            return (*above, subject[0]), "subjects of BIDS" if parts[i:] != [subject[0]] else ""
    if place and (subject := _SUBJECT.match(name)):
        return (*_sites(parts[:-1]), subject[0]), "subjects of BIDS"
    own = [part for part in parts if not _SORTING.fullmatch(part)] or parts[-1:]
    kept = [part for part in own if not is_examination(part)]
    # 2018/Doe, while a number of four digits may well be a patient
    kept = [part for i, part in enumerate(kept) if kept[i + 1 :] == [] or not _YEAR.fullmatch(part)]
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
        if not (_SORTING.fullmatch(part) or IS_TIME.fullmatch(part)):
            kept.append(part)
    return tuple(kept)


def _without_time(name: str) -> str:
    if match := _BEGINS_WITH_DATE.fullmatch(name):
        name = match["patient"]
    while match := _ENDS_WITH_TIME.fullmatch(name):
        name = match["patient"]
    return name
