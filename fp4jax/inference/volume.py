"""segment_volume(predict, image, window): the regions of a volume, arrays in and arrays out."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from fp4jax.core.typing import Float, UInt8
from fp4jax.data.nifti.prepare import bounding_box
from fp4jax.inference.alone import Predict
from fp4jax.inference.mirroring import mirrored
from fp4jax.inference.regions import mean_probabilities, to_masks, to_probabilities
from fp4jax.inference.sliding import sliding_window


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in a volume.

    Attributes:
        masks: of the regions, uint8 0 and 1, (x, y, z, r).
        probabilities: of the regions, float32, (x, y, z, r).
    """

    masks: UInt8[np.ndarray, "x y z r"]
    probabilities: Float[np.ndarray, "x y z r"]


def segment_volume(
    predict: Predict | Sequence[Predict],
    image: Float[np.ndarray, "x y z c"],
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    exclusive: bool = False,
    mirror: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Segmentation:
    """The regions of a volume, by windows.

    Windows lie in the smallest box with all voxels that are not 0, as the patches of training did;
    outside of it nothing is found. Their logits are averaged with Gaussian weights.

    Args:
        predict: windows (*window, c), one after the other -> the logits (*window, k) of each; see
            :class:`fp4jax.inference.Alone`. Of several models the mean of their probabilities
            counts.
        image: a volume, 0 outside of the body.
        window: three edges in voxels, or two, of a network of slices: axial ones, along the last
            axis of space, are segmented one by one.
        overlap: share of a window that its neighbour covers too, 0 to below 1.
        exclusive: whether logits are those of a background and classes that exclude each other;
            see :mod:`fp4jax.inference.regions`.
        mirror: axes of the windows; logits are the mean over all flips of them.
        progress: is called with the windows done and the number of all, for each model.

    Raises:
        ValueError: if an argument is out of range, shapes do not fit, or a logit is NaN.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((6, 6, 6, 1), np.float32)
        >>> image[1:5, 1:5, 1:5], image[2:4, 2:4, 2:4] = -1, 1
        >>> found = segment_volume(lambda windows: windows, image, window=(4, 4, 4))
        >>> int(found.masks.sum()), found.probabilities[0, 0, 0, 0]
        (8, np.float32(0.0))
    """
    predicts = (predict,) if callable(predict) else tuple(predict)
    box = bounding_box(np.asarray(image.any(axis=-1)))
    each = (
        to_probabilities(
            _logits(one, image[box], tuple(window), overlap, mirror, progress), exclusive=exclusive
        )
        for one in predicts
    )
    inside = mean_probabilities(each)
    masks = to_masks(inside, exclusive=exclusive)
    regions = inside[..., 1:] if exclusive else inside
    return Segmentation(_placed(masks, box, image.shape), _placed(regions, box, image.shape))


def _logits(
    predict: Predict,
    image: np.ndarray,
    window: tuple[int, ...],
    overlap: float,
    mirror: Sequence[int],
    progress: Callable[[int, int], None] | None,
) -> Float[np.ndarray, "x y z k"]:
    """What a network says about a part of a volume, averaged over windows."""
    predict = mirrored(predict, mirror)
    if len(window) == 2:
        return sliding_window(
            _of_slices(predict),
            image,
            (*window, 1),
            overlap=(overlap, overlap, 0.0),
            progress=progress,
        )
    return sliding_window(predict, image, window, overlap=overlap, progress=progress)


def _of_slices(predict: Predict) -> Predict:
    """For windows (h, w, 1, c) what ``predict`` does for (h, w, c)."""

    def each(windows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        logits = predict(window[:, :, 0] for window in windows)
        return (z[:, :, None] for z in logits)

    return each


def _placed(part: np.ndarray, box: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A part of a volume where it belongs, and 0 elsewhere."""
    whole = np.zeros((*shape[:3], part.shape[-1]), part.dtype)
    whole[box] = part
    return whole
