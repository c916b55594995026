"""Training steps of the five networks in PyTorch, of any batch, side and size, made when called."""

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import torch_peer


class Shape(NamedTuple):
    """Of a model and its batch: ``options`` are those of the size, as fp4jax's models have them."""

    arch: str
    options: dict[str, Any]
    dims: int
    side: int
    batch: int
    inputs: int
    outputs: int

    @property
    def layout(self) -> str:
        """The faster of torch's memory layouts, as bench_train and bench_swin_unetr found."""
        return "contiguous" if self.arch in ("vit", "swin") else "channels_last"


def missing(arch: str) -> str:
    """The package that the peer lacks; "" if it has all."""
    try:
        for name in ("torch", *(["monai"] if arch == "swin_unetr" else [])):
            importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        return str(error.name)
    return ""


def steps(shapes: Sequence[Shape]) -> torch_peer.Calls:
    """The step of each shape, by its place; the model is made at its first call."""
    return {str(i): _Step(shape) for i, shape in enumerate(shapes)}


class _Step:
    """A training step that replaces the one before it, whose memory it needs."""

    kept: "_Step | None" = None

    def __init__(self, shape: Shape):
        self._shape = shape
        self._call: Callable[[], float] | None = None

    def __call__(self) -> float:
        if self._call is None:
            if _Step.kept:
                _Step.kept._call = None
            _Step.kept, self._call = self, train_step(self._shape)
        return self._call()


def train_step(shape: Shape) -> Callable[[], float]:
    """Forward, BCE + Tversky, backward, clipping and update, on noise."""
    import torch

    rng, space = np.random.default_rng(0), (shape.side,) * shape.dims
    x = rng.normal(size=(shape.batch, shape.inputs, *space)).astype(np.float32)
    y = rng.random((shape.batch, shape.outputs, *space)) < 0.1
    batch = torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))
    optimizer = torch_peer.optimizer_of(shape.arch)
    return torch_peer.train_step(_model(shape), *batch, shape.layout, optimizer)


def _model(shape: Shape) -> Any:
    if shape.arch != "swin_unetr":
        from benchmarks import torch_models

        return torch_models.create(shape.arch, shape.side, **shape.options)
    from monai.networks.nets.swin_unetr import SwinUNETR

    create = functools.partial(SwinUNETR, in_channels=shape.inputs, out_channels=shape.outputs)
    return create(spatial_dims=shape.dims, **shape.options)
