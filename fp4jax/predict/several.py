"""Several models or mirror images in place of one: the mean of what they say.

network = together([from_run(path) for path in folds_of("runs/swin_..._fold0_...")])
network = with_mirroring(network)
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fp4jax.predict.network import Network
from fp4jax.train import Slices, Volumes, read_trained
from fp4jax.train.trained import is_run

# What must be one thing for outputs to be averaged.
_SHARED = ("in_channels", "num_classes", "image_size", "spatial_dims", "channels", "regions")


def together(networks: Sequence[Network]) -> Network:
    """One network of several, by the mean of their probabilities; the threshold is the mean too.

    Raises:
        ValueError: none, or networks of other images, channels or regions.
    """
    if not networks:
        raise ValueError("no model: name a run's folder, or a packed file.")
    first, *others = networks
    for other in others:
        for name in _SHARED:
            one, two = getattr(first.about, name), getattr(other.about, name)
            if one != two:
                raise ValueError(
                    f"{first.about.run} has {name} {one}, {other.about.run} has {two}; average "
                    "models of one cross-validation, or of the same data."
                )
        if first.task != other.task:
            raise ValueError(
                f"{first.about.run} and {other.about.run} were trained on data that were read in "
                "another way; average models of the same data."
            )
    if not others:
        return first
    thresholds = [one.about.threshold for one in networks]
    decoded = any(one.packed is not None for one in networks)
    packed = tuple(one.variables if one.packed is None else one.packed for one in networks)
    about = dataclasses.replace(
        first.about,
        run=" + ".join(one.about.run for one in networks),
        recipe=" + ".join(dict.fromkeys(one.about.recipe for one in networks)),
        threshold=sum(thresholds) / len(thresholds),
    )
    return dataclasses.replace(
        first,
        about=about,
        predicts=tuple(itertools.chain.from_iterable(one.predicts for one in networks)),
        variables=tuple(one.variables for one in networks),
        config="\n".join(one.config for one in networks),
        packed=packed if decoded else None,
    )


def with_mirroring(network: Network) -> Network:
    """The network, averaged over the flips that it was trained with.

    Raises:
        ValueError: it was trained without flips.
    """
    task: Any = network.task
    axes: tuple[int, ...] = ()
    if isinstance(task, Slices):
        axes = (0, 1) if task.augment else ()
    elif isinstance(task, Volumes):
        axes = () if task.augment == "none" else tuple(range(task.spatial_dims))
    if not axes:
        raise ValueError(
            f"--mirror averages over the flips of the training, and {network.about.run} was "
            "trained without; leave it out."
        )
    return dataclasses.replace(network, mirror=axes)


def folds_of(path: str | Path) -> tuple[Path, ...]:
    """The folders of all folds of the cross-validation that a run is of, which lie beside it.

    Args:
        path: the folder of any of them.

    Raises:
        ValueError: a run of no cross-validation, or folds that are missing or not finished.
    """
    path = Path(path).expanduser()
    own = read_trained(path, finished=True)
    config = own.config
    if config.fold is None:
        raise ValueError(
            f"--folds: {path} is of no cross-validation, its split is {config.split!r}; name the "
            "folder of a fold, or name the runs themselves."
        )
    found: dict[int, Path] = {}
    unfinished = []
    for other in sorted(path.resolve().parent.iterdir()):
        if other.name.startswith(".") or not is_run(other):
            continue
        try:
            run = read_trained(other, finished=True)
        except ValueError:
            unfinished.append(other.name)
            continue
        fold = run.config.fold
        same = dataclasses.replace(run.config, split=config.split) == config
        if fold is not None and same and run.digest == own.digest:
            found.setdefault(fold, other)
    missing = [fold for fold in range(config.folds) if fold not in found]
    if missing:
        more = f"; not finished: {', '.join(unfinished)}" if unfinished else ""
        raise ValueError(
            f"--folds: of {config.folds} folds {', '.join(map(str, missing))} is not beside "
            f"{path}, finished{more}. Train it first, or name the runs that there are."
        )
    return tuple(found[fold] for fold in range(config.folds))
