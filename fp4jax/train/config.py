"""The configuration of one training run, and the id that follows from it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fp4jax import losses, models
from fp4jax.data import Split
from fp4jax.files import expanded
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.recipe import Recipe
from fp4jax.ops.rules import Rules, name_or_value, recipe_or_rules
from fp4jax.train import scale_options
from fp4jax.train.optimizer import DEFAULTS, optimizer as checked_optimizer
from fp4jax.train.slices import Slices
from fp4jax.train.task import Data, Task
from fp4jax.version import NUMERICS

#: The scale that is a network's own default size.
MONAI = "monai"
_SWAPPED = "_swapped"
_OF_TASK = ("batch_size", "loss", "schedule", "early_stopping")
_OF_STUDENT = (
    *("recipe", "attention", "method"),
    *("distill_weight", "distill_ratio", "temperature", "divergence"),
    *scale_options.OF_SCALES,
)


@dataclasses.dataclass(frozen=True)
class Training:
    """What the runs of a study share: data, model options, optimization.

    Where a default is None it is that of the task (:class:`fp4jax.train.Task`) or, for the
    optimizer's constants, the architecture's.
    """

    # what is learned: slices of a cohort, NIfTI volumes, or a registered task
    data: Task = dataclasses.field(default_factory=Slices)
    # number of parts of the cross-validation
    folds: int = 5
    # seed of the split, the same for all seeds of training
    split_seed: int = 2026

    # at most this many epochs
    epochs: int = 100
    # images or patches of a step; default: the task's
    batch_size: int | None = None
    # adamw or adamax; default: the architecture's
    optimizer: str | None = None
    # highest learning rate; default: the architecture's
    learning_rate: float | None = None
    # decoupled, in units of the learning rate; default: the architecture's
    weight_decay: float | None = None
    # gradients are scaled down to this global norm
    clip: float = 1.0
    # plateau: halve the rate when the validation stalls (plateau_ref: with the reference's
    # defect); onecycle: warm up, then anneal to zero over all epochs, for short runs; constant;
    # default: the task's
    schedule: Literal["plateau", "plateau_ref", "onecycle", "constant"] | None = None
    # ref: the reference's, which counts patience during warm-up and keeps the last clear progress;
    # default: the task's
    early_stopping: Literal["fixed", "ref", "none"] | None = None
    # epochs without progress after which a run stops
    patience: int = 20
    # epochs during which it does not stop
    warmup_epochs: int = 40
    # the validation patients are scored after every so many epochs, and after the last
    validate_every: int = 1
    # name of a loss of fp4jax.losses; default: the task's
    loss: str | None = None
    # dtype of the computation; parameters are always float32
    dtype: Literal["float32", "bfloat16"] = "float32"

    # layers that stay in high precision, as regular expressions of their paths; default: those
    # that the model names
    keep: tuple[str, ...] | None = None
    # further options of the model, by name and value: init ref
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # checkpoint to start from, by torch's names (.safetensors, .npz, .pt)
    weights: Path | None = None
    # weight of the distillation in the loss of qad, times the temperature's square
    distill_weight: float = 1.0
    # share of the loss that distillation has at the start; replaces distill_weight
    distill_ratio: float | None = None
    # temperature of the distillation
    temperature: float = 2.0
    # kl, or the reference's cross-entropy of the same gradient
    divergence: Literal["kl", "cross_entropy_ref"] = "kl"
    # after the training, score the best epoch with static scales too: max, percentile (99.99) or
    # mse of x on training examples, not augmented (runs that quantize no x have none)
    calibrate: Literal["max", "percentile", "mse"] | None = None
    # batches of the first epoch's order that are calibrated on
    calibration_batches: int = 8
    # train with static scales of x that follow the steps: the decay of an average of their amaxes,
    # below 1, or the number of steps of which the largest counts
    running_amax: float | None = None
    # the first steps, in high precision; then the recipe
    warm_start_steps: int = 0

    # modules that were imported for what they register
    plugins: tuple[str, ...] = ()

    def __post_init__(self):
        for name in _OF_TASK:
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.data.defaults, name))
        object.__setattr__(self, "weights", expanded(self.weights))
        losses.get_loss(self.loss or "")
        for name in ("epochs", "batch_size", "folds", "validate_every", "calibration_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in (
            *("patience", "warmup_epochs", "distill_weight", "split_seed", "warm_start_steps"),
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("learning_rate", "clip", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive.")
        if self.running_amax is not None:
            object.__setattr__(self, "running_amax", float(self.running_amax))
        scale_options.check(self)
        # Raises for an unknown name or a number out of its range.
        checked_optimizer(self.optimizer or "adamw", self.weight_decay or 0.0, clip=self.clip)
        if self.distill_ratio is not None and not 0 <= self.distill_ratio < 1:
            raise ValueError(
                f"distill_ratio is {self.distill_ratio}; give a share of the loss, 0 to below 1."
            )
        self.data.check(self)  # pyright: ignore


@dataclasses.dataclass(frozen=True)
class RunConfig(Training):
    """One run: data, a model, a recipe, a split, a seed.

    Two runs with equal configuration and equal data have the same id, whatever folder the data
    lie in. Runs that differ in the recipe alone start from the same weights and see the same
    images in the same order.

    Example:
        >>> run = RunConfig(arch="cnn", recipe="5").resolved()
        >>> run.recipe, run.optimizer, run.learning_rate
        ('2d+rht+sr', 'adamax', 0.0005)
        >>> from fp4jax.train import Volumes
        >>> RunConfig(Volumes(patch_size=(64, 64, 64))).arch
        'swin_unetr'
    """

    # architecture: cnn, vit, swin, unet, basic_unet, swin_unetr or a registered one; default: the
    # task's
    arch: str = ""
    # size of the model: 500k, 4m or 15m, after its parameters in 2D (in 3D they are twice to three
    # times as many), or monai, which is MONAI's own; default: the task's, monai for a checkpoint
    scale: str = ""
    # QAT recipe, by name or by the paper's id (0 to 7); or rules {pattern of layers: recipe or
    # None}, which replace the layers that the model keeps in high precision unless keep is given
    recipe: Any = "baseline"
    # recipe of the products inside attention, by name; default: high precision, or what rules say
    attention: Any = None
    # qat: trained with the recipe; qad: distilled from the baseline run of the same configuration;
    # ptq: the weights of that baseline run, quantized after training
    method: Literal["qat", "qad", "ptq"] = "qat"
    # holdout, or one part of a cross-validation: fold0, fold1, ...; a fold holds out patients of
    # which half choose the epoch and half are tested, in fold0_swapped the other way round
    split: str = "holdout"
    # seed of weights, order of the images, augmentation, dropout and rounding
    seed: int = 2026

    def __post_init__(self):
        recipe = recipe_or_rules(self.recipe)
        value = recipe if isinstance(recipe, Rules) else name_or_value(recipe)
        object.__setattr__(self, "recipe", value)
        object.__setattr__(self, "attention", attention_of(self.attention))
        scale = self.data.defaults.scale if self.weights is None else MONAI
        object.__setattr__(self, "arch", self.arch or self.data.defaults.arch)
        object.__setattr__(self, "scale", self.scale or scale)
        super().__post_init__()
        options = models.parse_options(self.arch, self.model_options)
        object.__setattr__(self, "model_options", options)
        if self.scale not in (*models.scales(self.arch), MONAI):
            allowed = ", ".join((*models.scales(self.arch), MONAI))
            raise ValueError(f"{self.arch} has no scale {self.scale!r}; its scales are: {allowed}.")
        if self.method != "qat" and not recipe.quantizes and self.attention is None:
            raise ValueError(f"method {self.method} compares with baseline; name another recipe.")
        if self.attention is not None and not models.attends(self.arch):
            name = getattr(self.attention, "name", self.attention)
            able = ", ".join(filter(models.attends, models.names()))
            raise ValueError(
                f"attention is {name!r}, but {self.arch} has none; leave it out, or take another "
                f"arch: {able}."
            )
        scale_options.check_run(self, recipe, LATER)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must lie in 0 .. 2**32 - 1.")
        if self.fold is None and self.split != "holdout":
            raise ValueError(
                f"split is {self.split!r}; use 'holdout', or 'fold0', 'fold1', ..., each also with "
                "'_swapped' behind it."
            )
        if self.fold is not None:
            object.__setattr__(self, "split", f"fold{self.fold}{_SWAPPED * self.swapped}")
            if self.fold >= self.folds:
                raise ValueError(f"split is {self.split!r}, but there are {self.folds} folds.")

    @property
    def fold(self) -> int | None:
        """Number of the fold, None for the holdout split."""
        number = self.split.removeprefix("fold").removesuffix(_SWAPPED)
        return int(number) if self.split.startswith("fold") and number.isdecimal() else None

    @property
    def swapped(self) -> bool:
        """Whether the patients to validate with and to test of the fold have changed places."""
        return self.fold is not None and self.split.endswith(_SWAPPED)

    def of_folds(self, folds: Sequence[Split]) -> Split:
        """Of the splits of a cross-validation that of this run."""
        one = folds[self.fold or 0]
        if not self.swapped:
            return one
        return Split(one.train, one.test, one.val, one.name + _SWAPPED)

    @property
    def recipe_name(self) -> str:
        """Of the recipe, registered or not, or of the rules; with that of attention behind it.

        Example:
            >>> RunConfig(arch="swin", recipe="1", attention="attention_qat").recipe_name
            'full+attention_qat'
        """
        recipe, attention = (
            value if isinstance(value, str) or value is None else value.name
            for value in (self.recipe, self.attention)
        )
        return str(recipe) if attention is None else f"{recipe}+{attention}"

    def resolved(self) -> "RunConfig":
        """With the defaults of the architecture filled in."""
        defaults = dataclasses.asdict(DEFAULTS.get(self.arch, DEFAULTS["swin"]))
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def teacher(self) -> "RunConfig":
        """The baseline run that ``qad`` learns from and ``ptq`` quantizes."""
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: fields[name] for name in _OF_STUDENT})

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON holds it; :func:`fp4jax.train.from_json` is the inverse."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        record["data"] = {"kind": self.data.kind, **dataclasses.asdict(self.data)}  # pyright: ignore
        drop_later(record)
        record["weights"] = None if self.weights is None else str(self.weights)
        if isinstance(self.recipe, Recipe | Rules):
            record["recipe"] = self.recipe.to_json()
        if isinstance(self.attention, AttentionRecipe):
            record["attention"] = self.attention.to_json()
        if self.attention is None:
            # Not in the records of earlier versions, whose runs keep their ids.
            del record["attention"]
        return json.loads(json.dumps(record))

    def identity(self, data: Data, split: Split) -> dict[str, Any]:
        """All that the numbers of a run depend on, for ``config.json``."""
        record = self.resolved().to_json()
        if self.weights is not None:
            # What counts is in the file, not where it lies.
            record["weights_sha256"] = file_digest(self.weights)
        parts = json.dumps([split.train, split.val, split.test])
        return {
            "schema": 3,
            "config": record,
            "digest": data.digest,
            "channels": list(data.channels),
            "regions": list(data.regions),
            "split_sha256": hashlib.sha256(parts.encode()).hexdigest(),
            "numerics": NUMERICS,
        }


#: Fields that earlier versions' runs do not have, and their defaults.
LATER = {
    field.name: field.default
    for field in dataclasses.fields(Training)
    if field.name in scale_options.OF_SCALES
}


def drop_later(record: dict[str, Any]) -> None:
    """Takes :data:`LATER` out of a record while they are at their defaults: ids stay the same."""
    for name, default in LATER.items():
        if record[name] == default:
            del record[name]


def attention_of(given: Any) -> str | AttentionRecipe | None:
    """An attention recipe by its registered name, or itself; None for None and "none"."""
    if given is None or given == "none":
        return None
    return name_or_value(get_attention_recipe(given))


def id_of(config: RunConfig, identity: Mapping[str, Any]) -> str:
    """Readable start, then 10 hexadecimal digits of the hash of :meth:`RunConfig.identity`."""
    text = json.dumps(counted(identity), sort_keys=True)
    hashed = hashlib.sha256(text.encode()).hexdigest()[:10]
    recipe = config.recipe_name.replace("+", "-")
    if config.method != "qat":
        recipe = f"{config.method}-{recipe}"
    parts = (config.arch, config.scale, recipe, config.data.name, config.split, f"s{config.seed}")
    return "_".join((*parts, hashed))


def counted(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of an identity what the id depends on: not where weights lie, and what was imported."""
    apart = ("weights", "plugins")
    config = {name: value for name, value in identity["config"].items() if name not in apart}
    return {**identity, "config": config}


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
