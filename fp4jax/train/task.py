"""What differs between slices and volumes, and what a user's own data have to say: Task and Data.

A :class:`Task` is a value in a run's configuration: which data, of which size, how augmented. Its
:meth:`Task.open` finds the files and returns :class:`Data`: patients, batches to train on, scores.
Everything else (step, schedules, recipes, methods, folds, checkpoints) exists once, beside it.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

from fp4jax import losses
from fp4jax.core.typing import Array
from fp4jax.data import Split
from fp4jax.files import expanded

if TYPE_CHECKING:
    from fp4jax.train.config import RunConfig
    from fp4jax.train.model import Model


@dataclasses.dataclass(frozen=True)
class Source:
    """Where files lie; no part of a run, whose numbers do not depend on it.

    Example:
        >>> Source(Path("~/kaggle_3m")).root == Path.home() / "kaggle_3m"
        True
    """

    # folder of the data set: kaggle_3m of LGG, the folder of cases of BraTS or the Decathlon
    root: Path | None = None
    # prepared volumes are kept here; default: $FP4JAX_CACHE, else ~/.cache/fp4jax
    cache: Path | None = None

    def __post_init__(self):
        for name in ("root", "cache"):
            object.__setattr__(self, name, expanded(getattr(self, name)))


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a task's runs are where nothing else is asked for."""

    arch: str
    scale: str
    batch_size: int
    loss: str
    schedule: str
    early_stopping: str


class Monitor(NamedTuple):
    """The value of the validation that the best epoch, plateaus and early stopping go by.

    Example:
        >>> Monitor("dice", "max").loss(0.75)
        0.25
    """

    name: str
    mode: Literal["min", "max"]

    def loss(self, value: float) -> float:
        """The value as something to be made small; shares are what is made large."""
        return value if self.mode == "min" else 1 - value


class Examples(NamedTuple):
    """A batch before it is augmented, on the host."""

    images: Any
    targets: Any
    # (b,) int32; with seed and epoch they give the augmentation's keys
    index: np.ndarray


class Feed(abc.ABC):
    """The batches that one run trains on; each a function of (seed, epoch, step) alone.

    Attributes:
        steps: of an epoch.
    """

    steps: int

    @abc.abstractmethod
    def batches(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Those of an epoch from step ``first`` on; epochs count from 1.

        Closing the iterator ends what it works with.
        """

    def of_rows(self, rows: slice) -> "Feed":
        """These rows of every batch: the part of one of several processes.

        By default the whole batch is drawn and the rest dropped. Override it where that costs.
        """
        return _Rows(self, rows)

    def order(self, epoch: int) -> np.ndarray | None:
        """(steps, b) places in :attr:`Data.resident`, None if there are no such places."""
        return None


class _Rows(Feed):
    def __init__(self, feed: Feed, rows: slice):
        self._feed, self._rows, self.steps = feed, rows, feed.steps

    def batches(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        batches = self._feed.batches(epoch, first)
        try:
            for whole in batches:
                yield Examples(*(column[self._rows] for column in whole))
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()


class Data(abc.ABC):
    """Opened data: patients, what they are split into, batches and scores.

    Attributes:
        digest: of all that the numbers of a run depend on.
        contents: for each patient a digest by which it is known under another name; and, after
            blanks, digests of parts, by any of which one is known who is there in part.
        channels: names of the images' channels, in order.
        regions: names of what is segmented.
        patients: ids, sorted.
        divides: whether ``validate`` and ``evaluate`` are divided among the processes of a
            training, by ``model.devices`` (:class:`fp4jax.train.Devices`): all of them then call
            both, and the first one writes. Else the first process does all of it.
    """

    divides: bool = False
    digest: str
    contents: Mapping[str, str]
    channels: tuple[str, ...]
    regions: tuple[str, ...]
    patients: tuple[str, ...]

    @abc.abstractmethod
    def split(self, config: "RunConfig") -> Split:
        """The patients to train on, to choose the epoch by and to report, for a new run."""

    @abc.abstractmethod
    def feed(self, config: "RunConfig", patients: Sequence[str], seed: int) -> Feed:
        """Batches of these patients."""

    @abc.abstractmethod
    def validate(self, model: "Model", patients: Sequence[str]) -> dict[str, float]:
        """Scores of an epoch, the task's monitor among them; of no patients none."""

    @abc.abstractmethod
    def evaluate(self, model: "Model", split: Split, folder: Path) -> dict[str, Any]:
        """Scores of the best epoch, for ``summary.json``; may write more into the folder.

        Keys: ``threshold`` (chosen on the validation patients), ``val`` and ``test`` (metrics by
        name), ``test_patients`` (the Dice of each).
        """

    @abc.abstractmethod
    def score(
        self, model: "Model", patients: Sequence[str], threshold: float, folder: Path | None = None
    ) -> dict[str, float]:
        """Metrics of these patients at a threshold that is known."""

    def resident(self, room: float) -> tuple[Any, Any] | None:
        """Images and targets that a device with ``room`` bytes keeps whole, None if it does not."""
        return None

    def check(self, config: "RunConfig") -> None:
        """Raises ValueError if a run's options do not fit these data."""
        return

    def prepare(self, patients: Sequence[str]) -> None:
        """Opens every file of these patients, so that what is wrong is said before the first step.

        Raises:
            ValueError: files that cannot be used.
        """
        return

    def describe(self) -> list[str]:
        """Lines for the dry run."""
        count = len(self.patients)
        sizes = f"{count} patient{'s' * (count != 1)}, channels {', '.join(self.channels)}"
        return [f"data: {sizes}; segmented: {', '.join(self.regions)}"]


class Task(abc.ABC):
    """The ``data`` of a :class:`fp4jax.train.RunConfig`; subclasses are frozen dataclasses.

    Register one with :func:`register_task`; its fields are then options of the command line
    (``--task NAME``) and part of a run's id, and :meth:`open` is given ``--root``.
    """

    #: Names this kind of data in files.
    kind: ClassVar[str]
    monitor: ClassVar[Monitor] = Monitor("loss", "min")
    defaults: ClassVar[Defaults]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What the data are, in a run's id and in reports."""

    @abc.abstractmethod
    def open(self, source: Source) -> Data:
        """Finds the files.

        Raises:
            ValueError: there are none, or they cannot be used.
        """

    @abc.abstractmethod
    def model_arguments(self, config: "RunConfig") -> dict[str, Any]:
        """Arguments of ``models.create``: ``image_size`` and what else follows from the data."""

    @abc.abstractmethod
    def batch(self, config: "RunConfig", channels: int, regions: int) -> tuple[Any, Any]:
        """Shapes and dtypes of a batch's images and targets."""

    @property
    def needs_root(self) -> bool:
        """Whether the data are files, whose folder a user has to name."""
        return True

    def assumed(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of channels and regions for a dry run without data; default: one of each."""
        return ("image",), ("lesion",)

    def check(self, config: "RunConfig") -> None:
        """Raises ValueError if a run's options do not fit this kind of data."""
        return

    def augmented(self, images: Array, targets: Array, keys: Array) -> tuple[Array, Array]:
        """Inside the step, a key per example; default: not at all."""
        return images, targets

    def inputs(self, images: Array) -> Array:
        """What the network sees of images as stored; default: the same."""
        return images

    def targets(self, targets: Array, config: "RunConfig") -> Array:
        """What the loss sees; classes that exclude each other are numbers from 1 on."""
        return exclusive_targets(targets) if exclusive(config) else targets


def exclusive(config: "RunConfig") -> bool:
    """Whether the loss of a run is of classes that exclude each other."""
    return losses.get_loss(config.loss or "bce_dice").exclusive


def exclusive_targets(masks: Array) -> Array:
    """Masks (..., k) that do not overlap -> numbers (...) of classes, 0 the background."""
    k = masks.shape[-1]
    numbers = jax.numpy.arange(1, k + 1, dtype=jax.numpy.int32)
    numbers = numbers.reshape(*(1,) * (masks.ndim - 1), k)
    return jax.numpy.max(masks.astype(jax.numpy.int32) * numbers, -1)


_TASKS: dict[str, type[Task]] = {}


def register_task(name: str, task: type[Task]) -> type[Task]:
    """Makes a kind of data known: to ``--task``, and to the readers of runs.

    Args:
        name: of the kind; becomes ``task.kind``.
        task: a subclass of :class:`Task` that is a frozen dataclass whose fields JSON can hold.

    Raises:
        ValueError: no such class, or a name that another one has.

    Example:
        >>> from fp4jax.train import RunConfig, Slices
        >>> @dataclasses.dataclass(frozen=True)
        ... class Small(Slices):  # a task may also derive from Task itself
        ...     image_size: int = 64
        >>> register_task("small", Small).kind, RunConfig(Small()).to_json()["data"]["kind"]
        ('small', 'small')
        >>> _ = _TASKS.pop("small")
    """
    if not (isinstance(task, type) and issubclass(task, Task) and dataclasses.is_dataclass(task)):
        raise ValueError(f"{task!r} is no task; give a frozen dataclass derived from train.Task.")
    known = _TASKS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (
        task.__module__,
        task.__qualname__,
    ):
        raise ValueError(f"there is a task {name!r} already ({known.__qualname__}); take another.")
    task.kind = name
    _TASKS[name] = task
    return task


def tasks() -> tuple[str, ...]:
    """Names of the registered tasks.

    Example:
        >>> import fp4jax.train
        >>> tasks()[:2]
        ('slices', 'volumes')
    """
    return tuple(_TASKS)


def get_task(name: str) -> type[Task]:
    """A registered task.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _TASKS:
        raise ValueError(f"no task {name!r}; the tasks are: {', '.join(_TASKS)}.")
    return _TASKS[name]
