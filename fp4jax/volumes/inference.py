"""Segmenter: whole volumes by a trained network, window by window."""

import dataclasses
from typing import Any

import numpy as np

from fp4jax.core.typing import Array, Float, UInt8
from fp4jax.data.nifti.prepare import bounding_box
from fp4jax.volumes.program import Program
from fp4jax.volumes.sliding import sliding_window


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
        masks = np.zeros((*image.shape[:3], len(self.regions)), np.uint8)
        box = bounding_box(np.asarray(image.any(axis=-1)))
        masks[box] = self.program.masks(self.logits(image[box]))
        return masks

    def logits(self, image: Float[np.ndarray, "x y z c"]) -> Float[np.ndarray, "x y z k"]:
        """What the network says about an image or a part of it, averaged over windows."""
        config = self.program.config
        flat = config.spatial_dims == 2

        def predict(windows: Array) -> Array:
            if not flat:
                return self.program.predict(self.params, self.stats, windows)
            slices = self.program.predict(self.params, self.stats, windows[:, :, :, 0])
            return slices[:, :, :, None]

        window = (*config.patch_size, 1) if flat else config.patch_size
        return np.asarray(
            sliding_window(
                predict,
                image,
                window,
                overlap=(config.overlap, config.overlap, 0.0) if flat else config.overlap,
                weighting="gaussian",
                batch=config.windows,
            )
        )
