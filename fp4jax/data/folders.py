"""Walking through a folder of data: what systems leave there is skipped, links that lead back too.

Synology, QNAP and NetApp servers, Windows, macOS, ext4, Git and notebooks put folders and files
beside the patients that are none. They are told by their names, and noted in the log.
"""

import fnmatch
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_LOG = logging.getLogger("fp4jax.data")

_CLUTTER = (
    ".*",  # hidden, and ._*, .DS_Store, .ipynb_checkpoints, .snapshot, .Trash-1000, .git, .nfs0001
    "__macosx",
    "__pycache__",
    "@eadir",
    "@tmp",
    "@recycle",
    "@recently-snapshot",
    "@sharebin",
    "#recycle",
    "#snapshot",
    "~snapshot",
    "lost+found",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "found.[0-9][0-9][0-9]",
    "thumbs.db",
    "ehthumbs*.db",
    "desktop.ini",
    "icon\r",
    "network trash folder",
    "temporary items",
    "~$*",
    "*~",
)


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is left by a system, and no data.

    Example:
        >>> [is_clutter(name) for name in ("@eaDir", "._P1_flair.nii.gz", "P1")]
        [True, True, False]
    """
    lower = name.lower()
    return any(fnmatch.fnmatchcase(lower, pattern) for pattern in _CLUTTER)


def note_skipped(root: Path, skipped: Iterable[str], why: str = "no data") -> None:
    """Says in the log which files and folders are left out."""
    names = sorted(set(skipped))
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        _LOG.info("%s: %s%s skipped, %s", root, ", ".join(names[:5]), more, why)


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without clutter.

    Raises:
        ValueError: the folder may not be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ValueError(_unreadable([(folder, error)])) from error
    note_skipped(folder, (name for name in names if is_clutter(name)))
    return [folder / name for name in names if not is_clutter(name)]


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As ``os.walk``, top down and sorted, through links; without clutter.

    A link to a folder above itself is not followed. Folders that the caller takes out of the list
    are not entered.

    Raises:
        ValueError: folders that may not be read, when all others have been walked through: data in
            them would be missing without a word.
    """
    refused: list[tuple[Path, OSError]] = []
    yield from _walk(root, (os.path.realpath(root),), refused)
    if refused:
        raise ValueError(_unreadable(refused))


def _walk(
    folder: Path, above: tuple[str, ...], refused: list[tuple[Path, OSError]]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    try:
        with os.scandir(folder) as found:
            every = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        refused.append((folder, error))
        return
    note_skipped(folder, (entry.name for entry in every if is_clutter(entry.name)))
    folders, files = [], []
    for entry in every:
        if not is_clutter(entry.name):
            (folders if _is_folder(entry) else files).append(entry.name)
    yield folder, folders, files
    for name in folders:
        real = os.path.realpath(folder / name)
        if real in above:
            note_skipped(folder, [name], "a link to a folder above it")
        else:
            yield from _walk(folder / name, (*above, real), refused)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _unreadable(refused: list[tuple[Path, OSError]]) -> str:
    shown = ", ".join(f"{folder} ({error.strerror})" for folder, error in refused[:5])
    return (
        f"{shown}: {len(refused)} folder{'s' * (len(refused) > 1)} cannot be read. Ask for the "
        "right to read (chmod -R u+rX), or move what is no data elsewhere."
    )


def readable(name: str) -> str:
    """A file's name as text that can be printed and stored, also if its bytes are no UTF-8.

    Composed characters count as one (NFC), as they do not on macOS.

    Example:
        >>> readable("M\\udcfcller"), readable("Mu\\u0308ller") == "M\\u00fcller"
        ('Müller', True)
    """
    import unicodedata

    if any("\udc80" <= letter <= "\udcff" for letter in name):
        name = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", name)
