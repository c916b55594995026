"""Model: trained parameters and how they are used; each example as if it were alone."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from fp4jax.core.typing import Float, Shaped
from fp4jax.inference import Segmentation, segment_volume
from fp4jax.train.config import RunConfig
from fp4jax.train.devices import Devices
from fp4jax.train.program import Program
from fp4jax.train.task import Data

T = TypeVar("T")

# Images whose logits processes give each other at a time.
_ROUND = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network in evaluation mode.

    Attributes:
        program: its compiled forward pass.
        params, stats: parameters and statistics of batch norm.
        channels: names of the images' channels.
        regions: names of what is segmented.
        devices: of a training by several processes, which divide the work of scoring; each then
            has all parameters on a device of its own.
    """

    program: Program
    params: Any
    stats: Any
    channels: tuple[str, ...]
    regions: tuple[str, ...]
    devices: Devices | None = None

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        return self.program.config

    def network(self) -> nnx.Module:
        """The NNX model, in evaluation mode; a new one for each call."""
        return self.program.network(self.params, self.stats)

    def logits(self, images: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """Logits (n, *space, k) of images as stored; no bit depends on what else is among them."""
        variables = (self.params, self.stats)
        if self.devices is None:
            return self.program.alone(variables, images)
        found: list[np.ndarray] = []
        for start in range(0, len(images), _ROUND):
            part = images[start : start + _ROUND]
            own = self.devices.own(list(part))
            found += self.devices.together(list(self.program.alone.each(variables, own)))
        return np.stack(found)

    @property
    def writes(self) -> bool:
        """Whether this process writes what was found; False in all but one of several."""
        return self.devices is None or self.devices.first

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """Of items to be scored those of this process; all if it is the only one."""
        return items if self.devices is None else self.devices.own(items)

    def together(self, results: Sequence[T]) -> list[T]:
        """The results of all processes for their :meth:`own` items, in the items' order."""
        return list(results) if self.devices is None else self.devices.together(results)

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


def divided(data: Data, devices: Devices | None) -> Devices | None:
    """For a model that is to score: the devices, if the work on these data can be divided."""
    return devices if data.divides else None


def by_one(data: Data, devices: Devices | None, scores: Callable[[], T]) -> T:
    """Scores that processes work out together; the first one alone if they cannot be divided."""
    if devices is None or data.divides:
        return scores()
    return devices.by_first(scores)
