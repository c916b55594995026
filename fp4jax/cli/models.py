"""Runs and packed files of a command line as one network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fp4jax import predict
from fp4jax.files import expanded
from fp4jax.predict import Network


def network_of(
    models: Sequence[Path],
    *,
    recipe: str | None = None,
    folds: bool = False,
    mirror: bool = False,
    static: bool = False,
    decode: bool = False,
) -> Network:
    """The network that one or more models are.

    Args:
        models: folders of runs, or packed files; of several the mean of their probabilities counts.
        recipe: another recipe than the runs'.
        folds: in place of the one run that is named, all of its cross-validation.
        mirror: average over mirror images, too.
        static: with the static scales that the runs were calibrated to.
        decode: weights of packed files are decoded once.

    Raises:
        ValueError: no model, models that do not go together, or an option without effect.
    """
    paths: Sequence[Path] = [path for model in models if (path := expanded(model))]
    if folds:
        if len(paths) != 1:
            raise ValueError(f"--folds finds the other folds of one run; {len(paths)} are named.")
        paths = predict.folds_of(paths[0])
    files = [str(path) for path in paths if not path.is_dir()]
    if recipe is not None and files:
        raise ValueError(f"--recipe: for runs, but {', '.join(files)} is no folder.")
    if static and files:
        raise ValueError(f"--static: for runs; the scales of {', '.join(files)} are in the file.")
    if decode and (runs := [str(path) for path in paths if path.is_dir()]):
        raise ValueError(f"--decode: for packed files, but {', '.join(runs)} is a run.")
    options: dict[str, Any] = {"recipe": recipe, "static": static}
    network = predict.together(
        [
            predict.from_run(path, **options)
            if path.is_dir()
            else predict.from_file(path, decode=decode)
            for path in paths
        ]
    )
    return predict.with_mirroring(network) if mirror else network
