"""Segmenter: whole volumes by a trained network, window by window."""

import dataclasses
import functools
from typing import Any

import numpy as np

from fp4jax.core.typing import Float, UInt8
from fp4jax.inference import segment_volume
from fp4jax.volumes.program import Program


@dataclasses.dataclass(frozen=True, eq=False)
class Segmenter:
    """Parameters that were trained, and how they are used: calls turn images into masks.

    Windows of the size of the training's patches lie ``overlap`` over each other; their logits are
    averaged with Gaussian weights. They lie in the smallest box with all voxels that are not 0, as
    the patches did; outside of it nothing is found.

    Attributes:
        program: its compiled forward pass.
        params, stats: parameters and statistics of batch norm.
        modalities: of the images' channels.
        regions: of the masks' channels.
    """

    program: Program
    params: Any
    stats: Any
    modalities: tuple[str, ...]
    regions: tuple[str, ...]

    def __call__(self, image: Float[np.ndarray, "x y z c"]) -> UInt8[np.ndarray, "x y z k"]:
        """The regions of an image, 0 and 1."""
        config = self.program.config
        return segment_volume(
            functools.partial(self.program.alone.each, (self.params, self.stats)),
            image,
            config.patch_size,
            overlap=config.overlap,
            exclusive=self.program.exclusive,
        ).masks
