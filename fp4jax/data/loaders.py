"""Cohorts by name: load("lgg", root); more of them by :func:`register`."""

import dataclasses
import inspect
import os
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from fp4jax.data.cohort import Cohort
from fp4jax.data.regrouping import by_pattern
from fp4jax.registration import Registry


@dataclasses.dataclass(frozen=True)
class _Loader:
    """How a cohort is loaded: a function, or where it is, whose module is imported on first use."""

    function: Callable[..., Cohort] | str
    needs_root: bool
    fixed: Mapping[str, Any]

    def resolve(self) -> Callable[..., Cohort]:
        found = self.function
        return pkgutil.resolve_name(found) if isinstance(found, str) else found

    def options(self) -> tuple[str, ...]:
        """Names of the arguments, beside the root and those that are fixed."""
        every = list(inspect.signature(self.resolve()).parameters)[self.needs_root :]
        return tuple(name for name in every if name not in self.fixed)


_LOADERS: Registry[_Loader] = Registry("data set")


def register(
    name: str, loader: Callable[..., Cohort] | str, *, needs_root: bool = True, **fixed: Any
) -> None:
    """Makes a data set known by name to :func:`load`, and with it to every command.

    Args:
        name: of letters, digits and ``_ . + -``, for it is part of the names of runs.
        loader: ``loader(root, *, image_size, ...) -> Cohort``; without ``root`` if ``needs_root``
            is False. ``image_size`` is the side in pixels that the slices must have, None for that
            in which they are stored (:meth:`fp4jax.data.Cohort.resize` does it). Or where it is,
            ``"module:function"``: the module is then imported when it is needed. The patients' ids
            must be those of patients, not of examinations, for splits keep them together.
            Registering the same loader again does nothing.
        needs_root: whether it reads files, in a folder that users name.
        fixed: options that this name has always.

    Raises:
        ValueError: the name is taken, or the loader lacks an argument.

    Example:
        >>> import numpy as np
        >>> def blank(root, *, image_size=None, count=2):
        ...     size = image_size or 8
        ...     images = np.zeros((count, size, size, 1), np.uint8)
        ...     ids, index = np.array([f"p{i}" for i in range(count)]), np.zeros(count, np.int32)
        ...     return Cohort(images, images[..., 0], ids, index, "blank", ("flair",))
        >>> register("blank", blank)
        >>> load("blank", "folder", image_size=16)
        Cohort('blank', 2 patients, 2 slices of 16x16, channels flair)
        >>> options("blank")
        ('image_size', 'count')
        >>> _LOADERS.remove("blank")
    """
    made = _Loader(loader, needs_root, fixed)
    if not isinstance(loader, str) and (problem := _problem(made)):
        raise ValueError(f"data set {name!r} cannot be registered: {problem}")
    _LOADERS.add(name, made)


def _problem(loader: _Loader) -> str | None:
    if not callable(loader.function):
        return f"{loader.function!r} is no function."
    arguments = list(inspect.signature(loader.function).parameters)
    if loader.needs_root and arguments[:1] != ["root"]:
        return "the first argument of its loader must be root; or pass needs_root=False."
    if "image_size" not in arguments:
        return "its loader has no argument image_size, the side of the images in pixels."
    return None


register("lgg", "fp4jax.data.lgg:load")
register("phantom", "fp4jax.data.phantom:load", needs_root=False)
register("images", "fp4jax.data.slice_folders:load")
register("brats", "fp4jax.data.nifti:load")
register("msd", "fp4jax.data.nifti:load", layout="msd")


def names() -> tuple[str, ...]:
    """Names that :func:`load` takes.

    Example:
        >>> names()[:2]
        ('lgg', 'phantom')
    """
    return tuple(_LOADERS)


def options(name: str) -> tuple[str, ...]:
    """Names of the options that :func:`load` takes for a data set.

    Example:
        >>> "target" in options("brats"), "target" in options("lgg")
        (True, False)
    """
    return _LOADERS.find(name).options()


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that :func:`load` refuses of a data set; reads no files.

    Example:
        >>> check_options("phantom", {"patients": 12, "patient_pattern": "p([0-9]+)"})
        >>> check_options("images", {"patients": 12})
        Traceback (most recent call last):
        ValueError: 'images' has no option patients; its options are: image_size, patient_pattern.
    """
    loader = _LOADERS.find(name)
    for option, value in loader.fixed.items():
        if options.get(option, value) != value:
            raise ValueError(f"{name!r} has {option} {value!r}; leave {option} out.")
    known = (*loader.options(), *loader.fixed)
    if unknown := sorted(set(options) - {*known, "patient_pattern"}):
        raise ValueError(
            f"{name!r} has no option {', '.join(unknown)}; its options are: {', '.join(known)}."
        )


def load(name: str, root: str | os.PathLike | None = None, **options: Any) -> Cohort:
    """A cohort by name.

    Args:
        name: ``"lgg"``, the LGG MRI set (:func:`fp4jax.data.lgg.load`); ``"phantom"``, the
            synthetic cohort that needs no files (:func:`fp4jax.data.phantom.load`); ``"images"``,
            PNG and TIFF files in folders of one's own (:func:`fp4jax.data.slice_folders.load`);
            ``"brats"`` and ``"msd"``, slices of NIfTI volumes (:func:`fp4jax.data.nifti.load`) of
            BraTS and of the Medical Segmentation Decathlon; or one that was registered
            (:func:`register`).
        root: the folder of the files, for all but ``"phantom"``.
        options: ``patient_pattern``, a regular expression whose group is the patient, which every
            data set has; and those of the loader (:func:`options`), such as ``image_size``,
            ``channel_order`` (LGG, phantom) and ``target`` (BraTS, Decathlon).

    Raises:
        ValueError: an unknown name or option, a root that is missing or not wanted, unusable files.

    Example::

        cohort = load("lgg", "kaggle_3m", image_size=128)
        small = load("phantom", patients=12, image_size=64)
        tumours = load("brats", "MICCAI_BraTS2020_TrainingData", image_size=128)
    """
    loader = _LOADERS.find(name)
    if loader.needs_root and root is None:
        raise ValueError(f"{name!r} is read from files; pass root, the folder that has them.")
    if root is not None and not loader.needs_root:
        raise ValueError(
            f"{name!r} reads no files; root is {str(root)!r}, leave it out, or name the data that "
            "lie there, such as --data lgg."
        )
    check_options(name, options)
    options |= loader.fixed
    # A loader that knows more than names, such as folders, looks for it itself.
    own_pattern = "patient_pattern" in loader.options()
    pattern = None if own_pattern else options.pop("patient_pattern", None)
    function = loader.resolve()
    cohort = function(root, **options) if loader.needs_root else function(**options)
    if not isinstance(cohort, Cohort):
        raise ValueError(
            f"the loader of {name!r} returned {type(cohort).__name__}; it must return a Cohort."
        )
    return cohort if pattern is None else by_pattern(cohort, pattern)


def needs_root(name: str) -> bool:
    """Whether a data set is read from files, in a folder that users name.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> needs_root("lgg"), needs_root("phantom")
        (True, False)
    """
    return _LOADERS.find(name).needs_root
