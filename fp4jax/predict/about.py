"""What a file says about its model, so that it can be loaded and used without anything else."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
from flax import nnx

from fp4jax import models


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
    image_size: int = 256
    # of the computation
    dtype: str = "float32"
    options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    # the recipe that the model was trained or quantized with
    recipe: str = ""
    # probability from which a pixel counts as lesion
    threshold: float = 0.5
    # of an input as it is stored: (x / divisor - mean) / sd, one number per channel; empty: unknown
    divisor: float = 255.0
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()
    # names of the channels in the order in which the model takes them; empty: unknown
    channels: tuple[str, ...] = ()
    # the cohort, and the run
    data: str = ""
    run: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a probability, 0 to 1.")
        for name in ("mean", "sd", "channels"):
            values = getattr(self, name)
            if values and len(values) != self.in_channels:
                raise ValueError(
                    f"{name} is {values}; give {self.in_channels}, one for each of in_channels, or "
                    "none."
                )

    def create(self, seed: int = 0) -> nnx.Module:
        """A model of this kind with initial weights, in high precision."""
        options: dict[str, Any] = dict(self.options)
        return models.create(
            self.arch,
            self.scale,
            in_channels=self.in_channels,
            num_classes=self.num_classes,
            image_size=self.image_size,
            dtype=None if self.dtype == "float32" else jnp.dtype(self.dtype),
            rngs=nnx.Rngs(seed),
            **options,
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "About":
        """The inverse of :meth:`to_json`; names that are unknown here are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {k: v for k, v in json.loads(text).items() if k in names}
        known |= {k: tuple(v) for k, v in known.items() if isinstance(v, list)}
        return cls(**known)
