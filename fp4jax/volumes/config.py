"""The configuration of one training run on volumes, and the id that follows from it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fp4jax import losses, models
from fp4jax.ops.recipe import get_recipe
from fp4jax.train import optimizer as optimizers
from fp4jax.train.optimizer import DEFAULTS
from fp4jax.version import __version__

_POSITIVE = ("batch_size", "steps", "epochs", "validate_every", "windows")
_SCALE = "4m"
#: The scale that is a network's own default size.
MONAI = "monai"


@dataclasses.dataclass(frozen=True)
class VolumeRun:
    """One run: a model, a recipe, what it sees of the cases, one seed.

    Two runs with equal configuration and equal data have the same id, whatever folder the data
    lie in. Runs that differ in the recipe alone start from the same weights and see the same
    patches in the same order.

    Example:
        >>> run = VolumeRun(recipe="5", patch_size=(64, 64, 64)).resolved()
        >>> run.recipe, run.learning_rate
        ('2d+rht+sr', 0.0001)
    """

    # architecture: swin_unetr, unet, basic_unet, or one of the 2D models
    arch: str = "swin_unetr"
    # size of the model: 500k, 4m or 15m, after its parameters in 2D (in 3D they are twice to three
    # times as many), or monai, which is MONAI's own; default: 4m, or monai for a checkpoint
    scale: str | None = None
    # QAT recipe, by name or by the paper's id (0 to 7)
    recipe: str = "baseline"
    # layers that stay in high precision, as regular expressions of their paths; default: those
    # that the model names
    keep: tuple[str, ...] | None = None
    # further options of the model, by name and value: feature_size 48, or channels 16,32,64
    model_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    # checkpoint to start from, by torch's names (.safetensors, .npz, .pt)
    weights: Path | None = None
    # 3 for volumes, 2 for their axial slices
    spatial_dims: Literal[2, 3] = 3

    # channels, in this order; default: all that the data set has
    modalities: tuple[str, ...] | None = None
    # what is segmented, each a channel of the targets; default: whole tumour, tumour core and
    # enhancing tumour, or all that the data set has
    regions: tuple[str, ...] | None = None
    # voxels are resampled to these edges, mm; default: as stored
    spacing: tuple[float, float, float] | None = None
    # share of the patients to choose the best epoch by; 0: the last is the best
    val_share: float = 0.1
    # share of the patients to report
    test_share: float = 0.2
    # seed of the split, the same for all seeds of training
    split_seed: int = 2026

    # edges of the patches in voxels; for slices two
    patch_size: tuple[int, ...] = (96, 96, 96)
    # share of the patches that are centred on a voxel of some region
    foreground: float = 0.5
    # patches of a step
    batch_size: int = 2
    # steps of an epoch
    steps: int = 250
    # how often that many
    epochs: int = 100
    # the validation cases are segmented after every so many epochs, and after the last
    validate_every: int = 1
    # name of a loss of fp4jax.losses
    loss: str = "bce_dice"
    # adamw or adamax; default: the architecture's
    optimizer: str | None = None
    # highest learning rate; default: the architecture's
    learning_rate: float | None = None
    # decoupled, in units of the learning rate; default: the architecture's
    weight_decay: float | None = None
    # gradients are scaled down to this global norm
    clip: float = 1.0
    # onecycle: warm up, then anneal to zero over all epochs; constant
    schedule: Literal["onecycle", "constant"] = "onecycle"
    # monai: flips and changes of intensity; nnunet: also rotations, zooms, noise and gamma
    augment: Literal["monai", "nnunet", "none"] = "monai"
    # dtype of the computation; parameters are always float32
    dtype: Literal["float32", "bfloat16"] = "float32"
    # seed of weights, patches, augmentation, dropout and rounding
    seed: int = 2026

    # share of a window that its neighbour covers too, in inference
    overlap: float = 0.5
    # of older runs, without effect: windows are computed as if alone, however many at a time
    windows: int = 1

    def __post_init__(self):
        object.__setattr__(self, "recipe", get_recipe(self.recipe).name)
        losses.get_loss(self.loss)
        allowed = ", ".join((*models.scales(self.arch), MONAI))
        if self.scale is not None and self.scale not in allowed.split(", "):
            raise ValueError(f"{self.arch} has no scale {self.scale!r}; its scales are: {allowed}.")
        # Raises for an unknown name or a number out of its range.
        optimizers.optimizer(self.optimizer or "adamw", self.weight_decay or 0.0, clip=self.clip)
        self._check_numbers()
        if len(self.patch_size) != self.spatial_dims or min(self.patch_size) < 1:
            raise ValueError(
                f"patch_size is {self.patch_size}; give {self.spatial_dims} positive numbers of "
                f"voxels, because spatial_dims is {self.spatial_dims}."
            )
        for name in ("modalities", "regions"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} are {values}; name one or more, each once.")
        edges = (1.0, 1.0, 1.0) if self.spacing is None else self.spacing
        if len(edges) != 3 or not all(edge > 0 for edge in edges):
            raise ValueError(f"spacing is {self.spacing}; give three positive numbers of mm.")

    def _check_numbers(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive.")
        for name in ("val_share", "test_share", "overlap"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a share, 0 to below 1.")
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground is {self.foreground}; give a share, 0 to 1.")
        if not self.val_share + self.test_share < 1:
            raise ValueError(
                f"val_share is {self.val_share} and test_share {self.test_share}; together they "
                "must leave something to train on."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must lie in 0 .. 2**32 - 1.")
        if self.split_seed < 0:
            raise ValueError(f"split_seed is {self.split_seed}; it must not be negative.")

    def resolved(self) -> "VolumeRun":
        """With the defaults of the architecture filled in."""
        defaults = dataclasses.asdict(DEFAULTS.get(self.arch, DEFAULTS["swin"]))
        defaults["scale"] = _SCALE if self.weights is None else MONAI
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def identity(self, digest: str) -> dict[str, Any]:
        """All that the numbers of a run depend on; ``digest`` is that of the cases."""
        record = dataclasses.asdict(self.resolved())
        # What counts is in the file, not where it lies.
        record["weights"] = None if self.weights is None else file_digest(self.weights)
        return {**record, "digest": digest, "fp4jax": __version__}

    def id(self, digest: str) -> str:
        """Readable start, then 10 hexadecimal digits of the hash of :meth:`identity`."""
        text = json.dumps(self.identity(digest), sort_keys=True)
        hashed = hashlib.sha256(text.encode()).hexdigest()[:10]
        name = f"{self.arch}{self.spatial_dims}d_{self.resolved().scale}"
        return f"{name}_{self.recipe.replace('+', '-')}_s{self.seed}_{hashed}"


def from_json(record: Mapping[str, Any]) -> VolumeRun:
    """The configuration in a ``config.json``, without the checkpoint that it started from."""
    fields = {field.name for field in dataclasses.fields(VolumeRun)} - {"weights"}
    values = {name: _tuples(value) for name, value in record.items() if name in fields}
    return VolumeRun(**values)


def _tuples(value: Any) -> Any:
    """JSON has lists where a configuration has tuples."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of a checkpoint.")
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
