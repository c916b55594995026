"""The configuration of one training run, and the id that follows from it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from fp4jax import losses, models
from fp4jax.ops.recipe import get_recipe
from fp4jax.train.optimizer import DEFAULTS
from fp4jax.version import __version__


@dataclasses.dataclass(frozen=True)
class Training:
    """What the runs of a study share: data, model options, optimization."""

    # cohort: phantom, lgg, brats or msd
    data: str = "phantom"
    # side of the images in pixels
    image_size: int = 256
    # number of parts of the cross-validation
    folds: int = 5
    # seed of the split, the same for all seeds of training
    split_seed: int = 2026

    # at most this many epochs
    epochs: int = 100
    # images of a step
    batch_size: int = 32
    # adamw or adamax; default: the architecture's
    optimizer: str | None = None
    # highest learning rate; default: the architecture's
    learning_rate: float | None = None
    # decoupled, in units of the learning rate; default: the architecture's
    weight_decay: float | None = None
    # gradients are scaled down to this global norm
    clip: float = 1.0
    # plateau: halve the rate when the validation loss stalls (plateau_ref: with the reference's
    # defect); onecycle: warm up, then anneal to zero over all epochs, for short runs; constant
    schedule: Literal["plateau", "plateau_ref", "onecycle", "constant"] = "plateau"
    # ref: the reference's, which counts patience during warm-up and keeps the last clear progress
    early_stopping: Literal["fixed", "ref", "none"] = "fixed"
    # epochs without progress after which a run stops
    patience: int = 20
    # epochs during which it does not stop
    warmup_epochs: int = 40
    # name of a loss of fp4jax.losses
    loss: str = "bce_tversky"
    # flips, brightness and contrast, shifts, scales and rotations
    augment: bool = True
    # dtype of the computation; parameters are always float32
    dtype: Literal["float32", "bfloat16"] = "float32"

    # layers that stay in high precision, as regular expressions of their paths; default: those
    # that the model names
    keep: tuple[str, ...] | None = None
    # further options of the model, by name and value: init ref
    model_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    # weight of the distillation in the loss of qad, times the temperature's square
    distill_weight: float = 1.0
    # share of the loss that distillation has at the start; replaces distill_weight
    distill_ratio: float | None = None
    # temperature of the distillation
    temperature: float = 2.0
    # kl, or the reference's cross-entropy of the same gradient
    divergence: Literal["kl", "cross_entropy_ref"] = "kl"

    def __post_init__(self):
        if isinstance(losses.get_loss(self.loss), losses.ClassLoss):
            raise ValueError(
                f"loss {self.loss!r} is of classes, masks here are of one region; take one of "
                f"{', '.join(n for n in losses.losses() if not n.startswith('ce'))}."
            )
        for name in ("image_size", "epochs", "batch_size", "folds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("patience", "warmup_epochs", "distill_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("learning_rate", "clip", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive.")
        if self.distill_ratio is not None and not 0 <= self.distill_ratio < 1:
            raise ValueError(
                f"distill_ratio is {self.distill_ratio}; give a share of the loss, 0 to below 1."
            )


@dataclasses.dataclass(frozen=True)
class RunConfig(Training):
    """One run: a model, a recipe, the data of one split, one seed.

    Two runs with equal configuration and equal data have the same id, whatever folder the data
    lie in. Runs that differ in the recipe alone start from the same weights and see the same
    images in the same order.

    Example:
        >>> run = RunConfig(arch="cnn", recipe="5").resolved()
        >>> run.recipe, run.optimizer, run.learning_rate
        ('2d+rht+sr', 'adamax', 0.0005)
    """

    # architecture: cnn, vit or swin
    arch: str = "swin"
    # size of the model: 500k, 4m or 15m
    scale: str = "500k"
    # QAT recipe, by name or by the paper's id (0 to 7)
    recipe: str = "baseline"
    # qat: trained with the recipe; qad: distilled from the baseline run of the same configuration;
    # ptq: the weights of that baseline run, quantized after training
    method: Literal["qat", "qad", "ptq"] = "qat"
    # holdout, or one part of a cross-validation: fold0, fold1, ...
    split: str = "holdout"
    # seed of weights, order of the images, augmentation, dropout and rounding
    seed: int = 2026

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "recipe", get_recipe(self.recipe).name)
        if self.scale not in models.scales(self.arch):
            allowed = ", ".join(models.scales(self.arch))
            raise ValueError(f"{self.arch} has no scale {self.scale!r}; its scales are: {allowed}.")
        if self.method != "qat" and self.recipe == "baseline":
            raise ValueError(f"method {self.method} compares with baseline; name another recipe.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must lie in 0 .. 2**32 - 1.")
        if self.fold is None and self.split != "holdout":
            raise ValueError(f"split is {self.split!r}; use 'holdout' or 'fold0', 'fold1', ...")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"split is {self.split!r}, but there are {self.folds} folds.")

    @property
    def fold(self) -> int | None:
        """Number of the fold, None for the holdout split."""
        number = self.split.removeprefix("fold")
        return int(number) if number != self.split and number.isdecimal() else None

    def resolved(self) -> "RunConfig":
        """With the defaults of the architecture filled in."""
        defaults = dataclasses.asdict(DEFAULTS.get(self.arch, DEFAULTS["swin"]))
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def teacher(self) -> "RunConfig":
        """The baseline run that ``qad`` learns from and ``ptq`` quantizes."""
        names = ("recipe", "method", "distill_weight", "distill_ratio", "temperature", "divergence")
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: fields[name] for name in names})

    def identity(self, digest: str) -> dict[str, Any]:
        """All that the numbers of a run depend on; ``digest`` is that of the cohort's arrays."""
        return {**dataclasses.asdict(self.resolved()), "digest": digest, **_versions()}

    def id(self, digest: str) -> str:
        """Readable start, then 10 hexadecimal digits of the hash of :meth:`identity`."""
        text = json.dumps(self.identity(digest), sort_keys=True)
        recipe = self.recipe.replace("+", "-")
        if self.method != "qat":
            recipe = f"{self.method}-{recipe}"
        hashed = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.arch}_{self.scale}_{recipe}_{self.data}_{self.split}_s{self.seed}_{hashed}"


def from_json(record: Mapping[str, Any]) -> RunConfig:
    """The configuration in a ``config.json``; keys that are none of its fields are left out."""
    names = {field.name for field in dataclasses.fields(RunConfig)}
    values = {name: value for name, value in record.items() if name in names}
    if values.get("keep") is not None:
        values["keep"] = tuple(values["keep"])
    return RunConfig(**values)


def _versions() -> dict[str, str]:
    return {"fp4jax": __version__}
