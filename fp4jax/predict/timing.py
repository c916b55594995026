"""latency(network): how long one image takes, on this machine."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from fp4jax.predict.network import Network
from fp4jax.train import Volumes
from fp4jax.train.environment import processor

_WARM_UP = 3
_LEAST, _MOST, _SECONDS = 10, 100, 10.0


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds from an image on the host to its probabilities on the host.

    Attributes:
        median, p95: of all images, ms; the 95th percentile.
        images: how many were timed, one at a time, after three to warm up.
        shape: of an image; of networks of volumes that of a window.
        machine: what computed.
    """

    median: float
    p95: float
    images: int
    shape: tuple[int, ...]
    machine: str

    def __str__(self) -> str:
        """In one line.

        Example:
            >>> print(Latency(3.25, 4.0, 100, (64, 64, 3), "a processor"))
            3.25 ms per 64x64x3 (95 %: 4.00 ms; 100 images one at a time, on a processor)
        """
        size = "x".join(map(str, self.shape))
        return (
            f"{self.median:.2f} ms per {size} (95 %: {self.p95:.2f} ms; {self.images} images one "
            f"at a time, on {self.machine})"
        )


def latency(network: Network) -> Latency:
    """Times a network on random images of its size: 100, or as many as 10 seconds allow.

    Reading, resizing and writing of files are not part of it.
    """
    image = _image(network)

    def seconds() -> float:
        start = time.perf_counter()
        for _ in network.probabilities([image]):
            pass
        return time.perf_counter() - start

    for _ in range(_WARM_UP):
        seconds()
    times: list[float] = []
    while len(times) < _MOST and (len(times) < _LEAST or sum(times) < _SECONDS):
        times.append(seconds())
    median, p95 = np.percentile(times, (50, 95)) * 1e3
    return Latency(float(median), float(p95), len(times), image.shape, machine())


def machine() -> str:
    """The device's name; of a CPU the processor's."""
    device = jax.devices()[0]
    return processor() if device.platform == "cpu" else device.device_kind


def _image(network: Network) -> np.ndarray:
    about, task = network.about, network.task
    rng = np.random.default_rng(0)
    size: Any = about.image_size
    if isinstance(task, Volumes):
        return rng.standard_normal((*task.patch_size, about.in_channels), np.float32)
    space = (size, size) if isinstance(size, int) else tuple(size)
    return rng.integers(0, 256, (*space, about.in_channels), np.uint8)
