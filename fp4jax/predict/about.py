"""What a file says about its model, so that it can be loaded and used without anything else."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from fp4jax import models
from fp4jax.data import augment
from fp4jax.train import Slices, Task, Trained
from fp4jax.train.config import MONAI, RunConfig
from fp4jax.train.records import task_of, tuples
from fp4jax.train.task import exclusive


@dataclasses.dataclass(frozen=True)
class About:
    """How to make the model, and how its images and scores are meant.

    Example:
        >>> about = About(arch="cnn", scale="500k", image_size=64, options={"stages": 3})
        >>> About.from_json(about.to_json()) == about
        True
    """

    # arguments of fp4jax.models.create; options are the further ones
    arch: str
    scale: str
    in_channels: int = 3
    num_classes: int = 1
    image_size: int | tuple[int, ...] = 256
    spatial_dims: int = 2
    # of the computation
    dtype: str = "float32"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # the recipe that the model was trained or quantized with
    recipe: str = ""
    # probability from which a pixel counts as lesion
    threshold: float = 0.5
    # of a slice as it is stored: (x / divisor - mean) / sd, one number per channel; empty: unknown,
    # or volumes, which are z-scores
    divisor: float = 255.0
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()
    # names of the channels in the order in which the model takes them; empty: unknown
    channels: tuple[str, ...] = ()
    # what is segmented; one class more than there are regions is the background, and classes
    # exclude each other; empty: unknown
    regions: tuple[str, ...] = ()
    # what the data were, as the "data" of a run's config.json has it: order of the channels,
    # patches, spacing, names of files, label values; empty: unknown
    task: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # the cohort, and the run
    data: str = ""
    run: str = ""
    # on whom it was trained (train), its epoch was chosen (val), and who was left for tests (test):
    # hashes of the patients' ids, and of each what tells its data under another name; of all data
    # together; empty: unknown
    patients: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    contents: Mapping[str, str] = dataclasses.field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        for name in ("options", "task", "patients", "contents"):
            object.__setattr__(self, name, tuples(getattr(self, name)))
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a probability, 0 to 1.")
        for name in ("mean", "sd", "channels"):
            values = getattr(self, name)
            if values and len(values) != self.in_channels:
                raise ValueError(
                    f"{name} is {values}; give {self.in_channels}, one for each of in_channels, or "
                    "none."
                )

    @property
    def exclusive(self) -> bool:
        """Whether logits are those of a background and classes that exclude each other."""
        return bool(self.regions) and self.num_classes == len(self.regions) + 1

    def create(self, seed: int = 0) -> nnx.Module:
        """A model of this kind with initial weights, in high precision."""
        return models.create(
            self.arch,
            None if self.scale == MONAI else self.scale,
            in_channels=self.in_channels,
            num_classes=self.num_classes,
            image_size=self.image_size,
            spatial_dims=self.spatial_dims,
            dtype=None if self.dtype == "float32" else jnp.dtype(self.dtype),
            rngs=nnx.Rngs(seed),
            **self.options,
        )

    def create_task(self) -> Task:
        """What the data were; of a file that does not say it, slices of the model's size.

        Raises:
            ValueError: a task that is not registered.
        """
        if self.task:
            return task_of(self.task)
        size = self.image_size
        return Slices(self.data or "phantom", size if isinstance(size, int) else size[0])

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "About":
        """The inverse of :meth:`to_json`; names that are unknown here are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: tuples(v) for k, v in json.loads(text).items() if k in names})


def about_run(run: Trained, config: RunConfig | None = None) -> About:
    """What a run's model is, with the recipe of ``config`` if that is not the run's own."""
    config = config or run.config
    about = about_model(
        config,
        run.channels,
        run.regions,
        threshold=run.threshold,
        run=run.folder.path.resolve().name,
    )
    if run.static:
        about = dataclasses.replace(about, recipe=f"{about.recipe}+static")
    if run.split is None:
        return about
    return dataclasses.replace(
        about,
        patients={
            part: tuple(map(hashed, getattr(run.split, part))) for part in ("train", "val", "test")
        },
        contents={hashed(patient): known for patient, known in run.contents.items()},
        digest=run.digest,
    )


def hashed(patient: str) -> str:
    """What a file keeps of a patient's id: enough to know it again, not to read it.

    Whoever has a list of ids can still find out which of them are meant.

    Example:
        >>> hashed("TCGA_CS_4941")
        '397cdf55e4b3f4f5'
    """
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def about_model(
    config: RunConfig,
    channels: tuple[str, ...],
    regions: tuple[str, ...],
    *,
    threshold: float = 0.5,
    run: str = "",
) -> About:
    """What the model of a configuration is."""
    count, arguments = len(channels), config.data.model_arguments(config)
    slices = isinstance(config.data, Slices)
    return About(
        arch=config.arch,
        scale=config.scale,
        in_channels=count,
        num_classes=len(regions) + exclusive(config),
        image_size=arguments["image_size"],
        spatial_dims=arguments.get("spatial_dims", 2),
        dtype=config.dtype,
        options=dict(config.model_options),
        recipe=config.recipe_name,
        threshold=threshold,
        mean=augment.constants(augment.IMAGENET_MEAN, count) if slices else (),
        sd=augment.constants(augment.IMAGENET_SD, count) if slices else (),
        channels=channels,
        regions=regions,
        task=config.to_json()["data"],
        data=config.data.name,
        run=run,
    )
