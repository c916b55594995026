"""Model: trained parameters and how they are used; each example as if it were alone."""

import dataclasses
import functools
from typing import Any

import numpy as np
from flax import nnx

from fp4jax.core.typing import Float, Shaped
from fp4jax.inference import Segmentation, segment_volume
from fp4jax.train.config import RunConfig
from fp4jax.train.program import Program


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network in evaluation mode.

    Attributes:
        program: its compiled forward pass.
        params, stats: parameters and statistics of batch norm.
        channels: names of the images' channels.
        regions: names of what is segmented.
    """

    program: Program
    params: Any
    stats: Any
    channels: tuple[str, ...]
    regions: tuple[str, ...]

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        return self.program.config

    def network(self) -> nnx.Module:
        """The NNX model, in evaluation mode; a new one for each call."""
        return self.program.network(self.params, self.stats)

    def logits(self, images: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """Logits (n, *space, k) of images as stored; no bit depends on what else is among them."""
        return self.program.alone((self.params, self.stats), images)

    def segment(self, image: Float[np.ndarray, "x y z c"], **options: Any) -> Segmentation:
        """The regions of a volume, window by window; see :func:`fp4jax.inference.segment_volume`.

        Windows are of the size of the training's patches, and overlap as the run says.
        """
        task: Any = self.config.data
        return segment_volume(
            functools.partial(self.program.alone.each, (self.params, self.stats)),
            image,
            task.patch_size,
            **{"overlap": task.overlap, "exclusive": self.program.exclusive, **options},
        )
