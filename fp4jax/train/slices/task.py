"""Slices: which cohort, of which size, in which order of channels."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from fp4jax.core.typing import Array
from fp4jax.data import Cohort, augment, load, needs_root
from fp4jax.train.slices.data import SliceData
from fp4jax.train.task import Defaults, Monitor, Source, Task, exclusive

if TYPE_CHECKING:
    from fp4jax.train.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Slices(Task):
    """Slices of patients, each with a mask of one lesion; a batch is taken from all patients.

    Example:
        >>> task = Slices("phantom", image_size=16, patients=20, slices=4)
        >>> task.open(Source()).patients[:2]
        ('phantom_0000', 'phantom_0001')
    """

    # cohort: phantom, lgg, brats, msd or a registered one
    cohort: str = "phantom"
    # side of the images in pixels
    image_size: int = 256
    # order of the channels: rgb as stored; ref_bgr as the reference reads them
    channel_order: Literal["rgb", "ref_bgr"] | None = None
    # of brats and msd: the region to segment (whole_tumour, tumour_core, enhancing)
    target: str | None = None
    # of brats and msd: the channels, in this order; default: all that there are
    modalities: tuple[str, ...] = ()
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

    @property
    def name(self) -> str:
        return self.cohort

    @property
    def needs_root(self) -> bool:
        return needs_root(self.cohort)

    def assumed(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.modalities or ("red", "green", "blue"), ("lesion",)

    def open(self, source: Source) -> SliceData:
        names = ("channel_order", "target", "modalities", "patients", "slices")
        # An option that a data set does not have is refused by its loader.
        given = {name: value for name in names if (value := getattr(self, name))}
        cohort = load(self.cohort, source.root, image_size=self.image_size, **given)
        return self.bind(cohort)

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
        return SliceData(cohort)

    def check(self, config: "RunConfig") -> None:
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
