"""Slices: which cohort, of which size, in which order of channels."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from fp4jax.core.typing import Array
from fp4jax.data import Cohort, augment, check_options, joined, load, names as data_sets, needs_root
from fp4jax.data.patients import pattern_problem
from fp4jax.train.slices.data import SliceData
from fp4jax.train.task import Defaults, Monitor, Source, Task, exclusive

if TYPE_CHECKING:
    from fp4jax.train.config import RunConfig


# The options that describe the files of one cohort.
_OF_FILES = ("target", "modalities", "patterns", "label", "labels", "mask", "patient_pattern")
_OF_FILES += ("patients", "slices")


@dataclasses.dataclass(frozen=True)
class Slices(Task):
    """Slices of patients, each with a mask of one lesion; a batch is taken from all patients.

    Example:
        >>> task = Slices("phantom", image_size=16, patients=20, slices=4)
        >>> task.open(Source()).patients[:2]
        ('phantom_0000', 'phantom_0001')
    """

    # cohort: phantom, lgg, images, brats, msd or a registered one
    cohort: str = "phantom"
    # side of the images in pixels
    image_size: int = 256
    # order of the channels: rgb as stored; ref_bgr as the reference reads them
    channel_order: Literal["rgb", "ref_bgr"] | None = None
    # of brats and msd: the region to segment (whole_tumour, tumour_core, enhancing)
    target: str | None = None
    # of brats and msd: the channels, in this order; default: all that there are
    modalities: tuple[str, ...] = ()
    # of brats: how any other folder of volumes is laid out, modality and pattern of its files,
    # flair Flair*.nii.gz
    patterns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # with patterns: that of the label maps
    label: str | None = None
    # of brats and msd: what the labels' values mean, the name of a layout with the same, or
    # regions such as core=1,4 whole=1,2,4
    labels: str | None = None
    # with patterns: that of brain masks
    mask: str | None = None
    # regular expression whose group is the patient in the name of a scan; default: by rules
    patient_pattern: str | None = None
    # patients of the phantom cohort (60)
    patients: int | None = None
    # slices of each of its patients (30)
    slices: int | None = None
    # flips, brightness and contrast, shifts, scales and rotations
    augment: bool = True

    kind: ClassVar[str] = "slices"
    monitor: ClassVar[Monitor] = Monitor("loss", "min")
    defaults: ClassVar[Defaults] = Defaults(
        arch="swin",
        scale="500k",
        batch_size=32,
        loss="bce_tversky",
        schedule="plateau",
        early_stopping="fixed",
    )

    def __post_init__(self):
        for name in ("image_size", "patients", "slices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if self.patient_pattern is not None and (problem := pattern_problem(self.patient_pattern)):
            raise ValueError(problem)
        if self.patterns and self.cohort == "msd":
            raise ValueError("--patterns describe other folders than msd; give --data brats.")
        if not self.patterns:
            for name in ("label", "mask"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} describes other folders; give --patterns with it.")

    @property
    def name(self) -> str:
        return self.cohort

    @property
    def needs_root(self) -> bool:
        return needs_root(self.cohort)

    def assumed(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.modalities or ("red", "green", "blue"), ("lesion",)

    def of_cohort(self, cohort: str) -> "Slices":
        """The same of other data: what describes the files of these is left out.

        The size of the images, their channels' order and augmentation stay.

        Example:
            >>> own = Slices("phantom", image_size=32, patients=12).of_cohort("images")
            >>> own == Slices("images", image_size=32)
            True
        """
        if cohort == self.cohort:
            return self
        plain = Slices()
        return dataclasses.replace(
            self, cohort=cohort, **{name: getattr(plain, name) for name in _OF_FILES}
        )

    def open(self, source: Source) -> SliceData:
        cohort = load(self.cohort, source.root, **self._options())
        return self.bind(cohort)

    def _options(self) -> dict[str, Any]:
        """What the loader is given; an option that a data set does not have is refused."""
        names = ("image_size", "channel_order", *_OF_FILES)
        given = {name: value for name in names if (value := getattr(self, name))}
        if given.pop("patterns", None):
            given |= {"layout": "folder", "modalities": self._patterns()}
        return given

    def _patterns(self) -> dict[str, str]:
        """The patterns of the modalities that are wanted, in order."""
        absent = [name for name in self.modalities if name not in self.patterns]
        if absent:
            raise ValueError(
                f"modalities are {', '.join(self.modalities)}; --patterns names "
                f"{', '.join(self.patterns)}."
            )
        return {name: self.patterns[name] for name in self.modalities or self.patterns}

    def bind(self, cohort: Cohort) -> SliceData:
        """A cohort that is in memory already.

        Raises:
            ValueError: images of another size.
        """
        height, width = cohort.images.shape[1:3]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"the cohort's images have {height}x{width} pixels, image_size is "
                f"{self.image_size}; use cohort.resize({self.image_size}) or another image_size."
            )
        return SliceData(joined(cohort))

    def check(self, config: "RunConfig") -> None:
        # Of a cohort that is not registered there may be runs, and data in memory.
        if self.cohort in data_sets():
            check_options(self.cohort, self._options())
        if exclusive(config):
            raise ValueError(
                f"loss {config.loss!r} is of classes, masks here are of one region; take a loss "
                "of masks, such as bce_tversky or bce_dice."
            )

    def model_arguments(self, config: "RunConfig") -> dict[str, Any]:
        return {"image_size": self.image_size}

    def batch(self, config: "RunConfig", channels: int, regions: int) -> tuple[Any, Any]:
        shape = (config.batch_size, self.image_size, self.image_size)
        return (
            jax.ShapeDtypeStruct((*shape, channels), jnp.uint8),
            jax.ShapeDtypeStruct(shape, jnp.uint8),
        )

    def augmented(self, images: Array, targets: Array, keys: Array) -> tuple[Array, Array]:
        return augment.augment(images, targets, keys) if self.augment else (images, targets)

    def inputs(self, images: Array) -> Array:
        return augment.normalize(images)
