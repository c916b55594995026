"""export: one model, one target, one file that was checked."""

import os
from pathlib import Path

from fp4jax.deploy.account import Account
from fp4jax.deploy.checkpoints.reading import is_checkpoint, read_checkpoint
from fp4jax.deploy.subject import Subject, read_subject
from fp4jax.deploy.targets import Options, Target, get_target
from fp4jax.files import expanded
from fp4jax.predict.about import About as About


def export(
    subject: Subject | str | Path,
    to: str,
    out: str | Path,
    options: Options | None = None,
    *,
    recipe: str | None = None,
    static: bool = False,
) -> Account:
    """Writes a model in the form that a target reads, after comparing it with the packed model.

    Args:
        subject: a run's folder, a packed file, a folder of the targets "compressed-tensors" and
            "modelopt", or a model with its :class:`About`.
        to: the target, see :func:`fp4jax.deploy.target_names`.
        out: the file or folder; it must not exist.
        options: see :class:`Options`.
        recipe: of a run's folder: another recipe than its own.
        static: of a run's folder: with the static scales that it was calibrated to; a target that
            needs them takes them anyway.

    Returns:
        What was written for each layer, how large it is, and how far it is from the packed model.

    Raises:
        ValueError: an unknown target, something that it has no form for, static scales that it
            needs and the model lacks, or a file that is further from the packed model than
            ``options.bound``; nothing is written then.
        FileExistsError: ``out`` exists.
        OSError: it cannot be written; nothing is left of it.
        ModuleNotFoundError: a package of the extra "deploy" is not installed.

    Example:
        >>> import tempfile
        >>> from fp4jax import nnx as fp4nnx
        >>> about = About("cnn", "500k", image_size=8, options={"stages": 2, "channels": 16})
        >>> model = fp4nnx.apply_recipe(about.create(), "full", keep="encoders.0|head")
        >>> model.eval()
        >>> packed = fp4nnx.pack(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     account = export(Subject(packed, about), "onnx-portable", f"{folder}/cnn.onnx")
        >>> account.target
        'onnx-portable'
    """
    target, path = get_target(to), expanded(out)
    assert path is not None
    if os.path.lexists(path):  # a link to nothing is something, too
        raise FileExistsError(f"{path} exists; name another file, or remove it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it, or name another.")
    if not isinstance(subject, Subject):
        subject = _read(Path(subject).expanduser(), target, recipe, static)
    elif recipe is not None or static:
        raise ValueError("recipe and static are for folders of runs; a model has its own.")
    try:
        return target.write(subject, path, options or Options())
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk names no file
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _read(path: Path, target: Target, recipe: str | None, static: bool) -> Subject:
    """Of a run, or of what is packed already and has its recipe and scales."""
    checkpoint = is_checkpoint(path)
    given = "static" if static else None if recipe is None else "recipe"
    if given and (checkpoint or path.is_file()):
        raise ValueError(f"{given} is for folders of runs; {path} is packed and has its own.")
    if checkpoint:
        return read_checkpoint(path)
    return read_subject(path, recipe=recipe, static=static or target.static)
