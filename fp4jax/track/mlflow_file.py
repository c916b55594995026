"""Where MLflow writes to files: data bases, there as a whole, and folders if it takes any."""

import contextlib
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock

# MLflow makes tables one by one: a process that dies before the last one, or a second one that
# begins meanwhile, leaves a file that MLflow never opens again.
_MAKE = "import sys, mlflow; mlflow.MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"

# A line that names an error.
_ERROR = re.compile(r"^[\w.]+(?:Error|Exception): .*", re.MULTILINE)


def complete(uri: str) -> None:
    """Makes the file of an SQLite data base with all of MLflow's tables, unless it is there.

    It is made under another name by a process of its own, which leaves no connection behind, and
    then renamed. Of several processes one does so, the others wait.

    Args:
        uri: such as ``sqlite:///runs/mlflow.db``.

    Raises:
        OSError: the file cannot be made, with the end of what MLflow says.
    """
    from sqlalchemy.engine import make_url  # pyright: ignore

    url = make_url(uri)
    if url.database in (None, "", ":memory:"):
        return
    path = Path(url.database).absolute()
    if _is_there(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_name(f".{path.name}.lock")):
        if _is_there(path):
            return
        # Of processes that died over it.
        for left in path.parent.glob(f".{path.name}.new-*"):
            left.unlink(missing_ok=True)
        made = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:8]}")
        try:
            _make(url.set(database=str(made)).render_as_string(hide_password=False), path)
            made.replace(path)
        finally:
            made.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of several processes one is in the block at a time, where the file system has locks."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _make(uri: str, path: Path) -> None:
    command = [sys.executable, "-c", _MAKE, uri]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        # The last error; SQLAlchemy has statements and links below it.
        *_, said = ["no reason given", *_ERROR.findall(done.stderr)]
        raise OSError(f"MLflow cannot make {path}: {said}")


def refused(uri: str) -> str | None:
    """Why MLflow does not write to a folder, None if it does, or if the URI is none of a folder.

    Newer versions want a data base, unless ``MLFLOW_ALLOW_FILE_STORE`` is set.

    Example:
        >>> refused("http://127.0.0.1:5000"), refused("sqlite:///runs/mlflow.db")
        (None, None)
    """
    if "://" in uri and not uri.startswith("file:"):
        return None
    if uri.startswith("databricks"):
        return None
    from mlflow import MlflowClient  # pyright: ignore
    from mlflow.exceptions import MlflowException  # pyright: ignore

    try:
        MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        return " ".join(str(error).split()).partition(". ")[0] + "."
    except OSError:  # such as a folder that cannot be written: no reason to train nothing
        return None
    return None
