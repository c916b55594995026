"""The five networks whose training steps are profiled and scaled, as configurations of runs."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from fp4jax import models
from fp4jax.train import RunConfig, Slices, Volumes
from fp4jax.train.config import MONAI
from fp4jax.train.program import build


@dataclasses.dataclass(frozen=True)
class Network:
    """A network by its architecture; ``side`` and ``batch`` are what it is usually measured at.

    Images have ``dims`` dimensions, and sides that are multiples of ``multiple``, ``least`` or
    more. ``patch`` is the side of what a transformer's token stands for; 0: it has none. At
    ``sizes_side`` models of all sizes fit.
    """

    title: str
    arch: str
    dims: int = 2
    side: int = 128
    batch: int = 8
    multiple: int = 64
    least: int = 0
    patch: int = 0
    sizes_side: int = 128

    def config(
        self,
        recipe: str = "baseline",
        *,
        side: int | None = None,
        batch: int | None = None,
        **options: Any,
    ) -> RunConfig:
        """A run without augmentation, of 500k parameters unless ``options`` has another scale."""
        side, batch = side or self.side, batch or self.batch
        if not self.takes(side):
            raise ValueError(
                f"the side of {self.title}'s images is {side}; give a multiple of {self.multiple}, "
                f"{max(self.least, self.multiple)} or more."
            )
        data: Any = Slices(image_size=side, augment=False)
        if self.dims == 3:
            data = Volumes(patch_size=(side,) * 3, augment="none")
        options = {"scale": "500k", **options}
        return RunConfig(data, arch=self.arch, recipe=recipe, batch_size=batch, **options)

    def takes(self, side: int) -> bool:
        """Whether images may have this side; the deepest norm needs more than one value."""
        return side % self.multiple == 0 and side >= max(self.least, 1)

    @property
    def channels(self) -> tuple[int, int]:
        """Of images, and of targets: what the trainer's tasks have."""
        return (3, 1) if self.dims == 2 else (4, 3)

    @property
    def of_monai(self) -> bool:
        """Whether its peer is MONAI's, whose feature sizes are multiples of 12."""
        return self.arch == "swin_unetr"

    @property
    def smallest(self) -> str:
        """The smallest model that the peer has, too: a scale, or a feature size."""
        return "12" if self.of_monai else "500k"

    def of_size(self, size: str) -> dict[str, Any]:
        """What :meth:`config` takes for a scale, or for a feature size of MONAI's network."""
        if self.of_monai:
            return {"scale": MONAI, "model_options": {"feature_size": int(size)}}
        return {"scale": size}

    def size_options(self, size: str) -> dict[str, Any]:
        """The same as options of the model, as the peers in PyTorch take them, too."""
        if self.of_monai:
            return {"feature_size": int(size)}
        values = models.resolved_options(self.arch, size)
        return {name: values[name] for name in _SIZES[self.arch]}

    def parameters(self, size: str) -> int:
        """Trainable ones, at ``sizes_side``."""
        config = self.config(side=self.sizes_side, **self.of_size(size))
        model = nnx.eval_shape(lambda: build(config, *self.channels, 0))
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


_TRANSFORMER = ("dim", "depth", "heads", "hidden")
_SIZES = {
    "cnn": ("stages", "channels"),
    "vit": _TRANSFORMER,
    "swin": (*_TRANSFORMER, "window"),
}

_UNETR: dict[str, Any] = {"arch": "swin_unetr", "multiple": 32, "least": 64, "patch": 2}

NETWORKS = {
    "cnn": Network("CNN", "cnn", multiple=16),
    "vit": Network("ViT", "vit", multiple=16, patch=16),
    "swin": Network("Swin", "swin", patch=16, sizes_side=256),
    "swin_unetr_2d": Network("Swin UNETR 2D", **_UNETR),
    "swin_unetr_3d": Network("Swin UNETR 3D", dims=3, side=64, batch=1, sizes_side=64, **_UNETR),
}


def checked(names: tuple[str, ...]) -> None:
    """Raises ValueError for the name of none."""
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise ValueError(f"networks has {', '.join(unknown)}; allowed: {', '.join(NETWORKS)}.")
