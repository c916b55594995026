"""Runs on other data, or again on their own: no patient that a run has seen is scored."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fp4jax.data import Cohort, Split
from fp4jax.train.member import bound
from fp4jax.train.task import Data
from fp4jax.train.trained import Trained, read_trained


@dataclasses.dataclass(frozen=True)
class Unseen:
    """Which patients of some data a run may be scored on.

    Attributes:
        patients: those that it neither trained nor chose its epoch on.
        left_out: reason -> patients.
        own: whether they are the run's own test patients, of the data that it was trained on.
    """

    patients: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    own: bool

    def __str__(self) -> str:
        """In one line.

        Example:
            >>> print(Unseen(("a",), {"trained on": ("b", "c")}, own=False))
            1 patient scored; left out: 2 trained on
        """
        count = len(self.patients)
        text = f"{count} patient{'s' * (count != 1)} scored"
        out = [f"{len(patients)} {reason}" for reason, patients in self.left_out.items()]
        return f"{text}; left out: {', '.join(out)}" if out else text


def unseen(run: Trained, data: Data, *, every: bool = False) -> Unseen:
    """The patients of some data that a run has not seen.

    A patient is known by its id, and by what its data are. Of the run's own data its test patients
    are scored, of other data all that it has not seen.

    Args:
        run: finished or not.
        data: any data that its network takes.
        every: of the run's own data too, all that it has not seen.

    Raises:
        ValueError: nothing is left; or the run kept no split and the data are not its own.
    """
    split, own = run.split, run.digest == data.digest
    if split is None:
        if not own:
            raise ValueError(
                f"{run.folder.path} is of an earlier version, which kept no split: which of these "
                "patients it was trained on cannot be known. Train the run again."
            )
        split = data.split(run.config)
    contents = {patient: data.contents[patient] for patient in data.patients}
    return not_seen(str(run.folder.path), split, run.contents, contents, own=own, every=every)


def not_seen(
    name: str,
    split: Split,
    known: Mapping[str, str],
    contents: Mapping[str, str],
    *,
    own: bool,
    every: bool = False,
) -> Unseen:
    """Of some patients those that a run has not seen.

    Args:
        name: of the run, for the message.
        split: its patients.
        known: of each of its patients what ``contents`` of :class:`fp4jax.train.Data` says of it.
        contents: those of the patients in question, in order.
        own: whether these are the run's own data, of which only the test patients are taken.
        every: all that it has not seen, in any case.

    Raises:
        ValueError: nothing is left.
    """
    seen: dict[str, tuple[str, ...]] = {
        "trained on": split.train,
        "the epoch was chosen on": split.val,
    }
    left_out: dict[str, tuple[str, ...]] = {}
    remaining = list(contents)
    for reason, patients in seen.items():
        names = set(patients)
        digests = {digest for p in patients if p in known for digest in known[p].split()}
        out = [p for p in remaining if p in names or digests.intersection(contents[p].split())]
        if out:
            left_out[reason] = tuple(out)
        remaining = [p for p in remaining if p not in out]
    if own and not every:
        others = tuple(p for p in remaining if p not in split.test)
        if others:
            left_out["of no part of the split"] = others
        remaining = [p for p in remaining if p in split.test]
    found = Unseen(tuple(remaining), left_out, own)
    if not remaining:
        raise ValueError(f"{name}: no patient is left to score ({found}).")
    return found


def evaluate_folder(
    path: Path, data: Data | Cohort, *, all_patients: bool = False, static: bool = False
) -> dict[str, Any]:
    """The metrics of a run's best epoch on the patients of some data that it has not seen.

    At 0.5 and at the run's threshold. On the run's own data these are its test patients.

    Args:
        path: the run's folder; an unfinished run is taken as it is, and says so.
        data: for slices a cohort with images of the run's size, or opened data.
        all_patients: of the run's own data too, every patient that it has not seen.
        static: with the static scales that the run was calibrated to, and their threshold.

    Raises:
        ValueError: no run, data that do not fit, static scales of a run without, or nothing left
            to score.

    Example:
        >>> import tempfile
        >>> from fp4jax.data import phantom
        >>> from fp4jax.train import RunConfig, Slices, train
        >>> cohort = phantom.load(patients=20, slices=4, image_size=16, cache=False)
        >>> small = {"model_options": {"stages": 2, "channels": 16}, "batch_size": 16}
        >>> data = Slices("phantom", image_size=16, augment=False)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     (folder,) = train(RunConfig(data, arch="cnn", epochs=1, **small), cohort, Path(out))
        ...     scores = evaluate_folder(folder.path, cohort)
        ...     scores["auprc"] == folder.summary()["test"]["auprc"]
        True
    """
    run = read_trained(path, static=static)
    return evaluate_run(run, run.model(), data, all_patients=all_patients)


def evaluate_run(
    run: Trained, model: Any, data: Data | Cohort, *, all_patients: bool = False
) -> dict[str, Any]:
    """The same for a run that was read, and the model of it that is to be scored.

    Args:
        run: whose patients and threshold count.
        model: what scores use of a :class:`fp4jax.train.Model`: ``logits`` of slices, ``segment``
            of volumes.
        data, all_patients: as for :func:`evaluate_folder`.

    Raises:
        ValueError: data that do not fit, or nothing left to score.
    """
    data = bound(run.config, data)
    check_names(run, data)
    chosen = unseen(run, data, every=all_patients)
    # What cannot be read is said before anything is computed, and all of it.
    data.prepare(chosen.patients)
    scores = data.score(model, chosen.patients, run.threshold)
    return {
        "threshold": run.threshold,
        "run": run.state,
        **({"scales": "static"} if run.static else {}),
        "patients": len(chosen.patients),
        "scored": str(chosen),
        "left_out": {reason: list(patients) for reason, patients in chosen.left_out.items()},
        **{name: value for name, value in scores.items() if name != "patients"},
    }


def check_names(run: Trained, data: Data) -> None:
    """Raises ValueError if data have other channels, or another order of them, than a run."""
    known = run.channels[:1] != ("channel 0",)
    if len(run.channels) != len(data.channels) or (known and run.channels != data.channels):
        raise ValueError(
            f"the data have the channels {', '.join(data.channels)}, {run.folder.path} was trained "
            f"on {', '.join(run.channels)}; give the same, in the same order."
        )


def split_of(run: Trained, data: Data) -> Split:
    """The split of a run; of an earlier version's that of its own data, if these are they."""
    if run.split is not None:
        return run.split
    unseen(run, data)
    return data.split(run.config)
