"""Files and folders: made under a temporary name, then renamed, so that none is ever half there."""

import contextlib
import errno
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None if there is no such file."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no JSON: {error}. Delete it and repeat the command."
        ) from error


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """JSON has no NaN: a metric that is not defined is null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def expanded(path: str | os.PathLike | None) -> Path | None:
    """A path of which ``~`` and ``~user`` are home folders, as a shell would have made it.

    Raises:
        ValueError: there is no such user, and no folder of that name.

    Example:
        >>> expanded("~/x") == Path.home() / "x"
        True
    """
    if path is None:
        return None
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        if Path(Path(path).parts[0]).exists():  # a folder that is named so
            return Path(path)
        raise ValueError(
            f"{path}: there is no home folder {Path(path).parts[0]}; give the whole path."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that becomes it when the block ends without an error.

    Until then, and if the block fails, ``path`` is what it was; readers never see half a file. The
    temporary file exists when the block begins, has the suffix of ``path``, and goes away if the
    block fails. Permissions follow the umask, as those of any new file.

    Raises:
        OSError: the folder of ``path`` does not exist or cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "scores.csv"
        ...     with replacing(path) as temporary:
        ...         _ = temporary.write_text("dice\\n0.9\\n")
        ...     path.read_text(), [file.name for file in path.parent.iterdir()]
        ('dice\\n0.9\\n', ['scores.csv'])
    """
    temporary = _beside(path, path.suffix)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path`` that becomes it when the block ends without an error.

    If the block fails, ``path`` is what it was and nothing is left behind. Missing parents are
    made. Files that others have open or mapped in a replaced folder stay valid for them.

    Args:
        path: of the folder.
        keep_existing: what to do if ``path`` is a folder with files when the block ends. False:
            the new one takes its place. True: the old one stays and the new one is dropped, as in
            a cache, where another process may have been faster and made the same.

    Raises:
        NotADirectoryError: ``path`` is a file.
        OSError: the folder cannot be made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cache" / "entry"
        ...     for text in ("first", "second"):
        ...         with replacing_folder(path, keep_existing=True) as temporary:
        ...             _ = (temporary / "data.txt").write_text(text)
        ...     (path / "data.txt").read_text(), [f.name for f in path.parent.iterdir()]
        ('first', ['entry'])
    """
    if _is_no_folder(path):
        raise NotADirectoryError(f"{path} is a file, where a folder is to be; name another path.")
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if keep_existing:
            _unless_taken(temporary, path)
        else:
            _exchange(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_no_folder(path: Path) -> bool:
    """Whether something else lies there, in one look: others may replace it between two."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _beside(path: Path, suffix: str = "") -> Path:
    """A hidden name in the same folder, so that renaming it does not copy."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex}{suffix}"


def _unless_taken(new: Path, path: Path) -> bool:
    """Renames a folder, and says whether it did: not if files are there already."""
    try:
        new.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchange(new: Path, path: Path) -> None:
    """Renames a folder; one that is there with files is moved aside first and removed after."""
    # Again if another process made the folder in between.
    while not _unless_taken(new, path):
        old = _beside(path)
        try:
            path.replace(old)
        except FileNotFoundError:  # another process has just moved it aside
            continue
        try:
            taken = not _unless_taken(new, path)
        except OSError:
            old.replace(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        if not taken:
            return
