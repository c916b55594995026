"""A study as a value, and the runs that it stands for."""

import dataclasses
import itertools
import json
from typing import Any, Literal

from fp4jax.ops.rules import recipe_or_rules
from fp4jax.train.config import RunConfig, Training, attention_of, drop_later
from fp4jax.train.scale_options import unused

_PER_ARCH = ("optimizer", "learning_rate", "weight_decay", "model_options")
# Play no part in a run that is not distilled, and must not tell equal runs apart.
_OF_DISTILLATION = ("distill_weight", "distill_ratio", "temperature", "divergence")


@dataclasses.dataclass(frozen=True)
class Study(Training):
    """Every combination of architecture, scale, method, recipe, split and seed.

    Runs that differ in split and seed alone form a group: they share their compiled steps, and on
    accelerators go side by side. The methods ``ptq`` and ``qad`` start from the baseline run of
    the same seed and split, which is trained even where ``recipes`` leaves it out.

    Example:
        >>> study = Study(archs=("swin",), recipes=("0", "5"), methods=("qat", "ptq"), seeds=(1, 2))
        >>> [(group[0].method, group[0].recipe, len(group)) for group in study.groups()]
        [('qat', 'baseline', 2), ('qat', '2d+rht+sr', 2), ('ptq', '2d+rht+sr', 2)]
        >>> from fp4jax.train import Volumes
        >>> [run.arch for run in Study(Volumes(patch_size=(32, 32, 32)), recipes=("0",)).runs()]
        ['swin_unetr']
    """

    # architectures to compare: cnn, vit, swin, unet, basic_unet, swin_unetr or registered ones;
    # default: the task's
    archs: tuple[str, ...] = ()
    # sizes of the models: 500k, 4m, 15m, or monai; default: the task's
    scales: tuple[str, ...] = ()
    # QAT recipes: names, the paper's ids (0 to 7), recipes, or rules
    recipes: tuple[Any, ...] = ("baseline", "full", "2d+rht+sr")
    # recipes of the products inside attention, each with each recipe: names; none: high precision
    attentions: tuple[Any, ...] = ("none",)
    # qat: trained with the recipe; qad: distilled from the baseline; ptq: quantized after training
    methods: tuple[Literal["qat", "qad", "ptq"], ...] = ("qat",)
    # holdout, single parts of a cross-validation (fold0 ...), cv for all of them, or
    # cv_crossed for these and their swapped halves, in which every patient is tested once
    splits: tuple[str, ...] = ("holdout",)
    # seeds of weights, order, augmentation and rounding
    seeds: tuple[int, ...] = (2026,)
    # most runs of a group that an accelerator trains side by side
    max_lanes: int = 10
    # what single architectures are trained with where the study itself says nothing:
    # optimizer, learning_rate, weight_decay, model_options
    per_arch: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        defaults = RunConfig(self.data, weights=self.weights)
        for name, default in (("archs", defaults.arch), ("scales", defaults.scale)):
            object.__setattr__(self, name, getattr(self, name) or (default,))
        recipes = tuple(RunConfig(recipe=recipe).recipe for recipe in self.recipes)
        object.__setattr__(self, "recipes", recipes)
        attentions = tuple(attention_of(attention) or "none" for attention in self.attentions)
        object.__setattr__(self, "attentions", attentions)
        for name in ("archs", "scales", "recipes", "attentions", "methods", "splits", "seeds"):
            values = getattr(self, name)
            if name in ("recipes", "attentions"):
                values = tuple(map(_name, values))
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; name one or more, each once.")
        if self.max_lanes < 1:
            raise ValueError(f"max_lanes is {self.max_lanes}; it must be at least 1.")
        for arch, constants in self.per_arch.items():
            unknown = set(constants) - set(_PER_ARCH)
            if unknown:
                raise ValueError(
                    f"per_arch[{arch!r}] sets {', '.join(sorted(unknown))}; it may set "
                    f"{', '.join(_PER_ARCH)}."
                )
        if not self.groups():
            raise ValueError(f"methods {self.methods} compare with baseline; name further recipes.")

    def groups(self) -> list[list[RunConfig]]:
        """Runs in the order in which they are trained."""
        replicates = list(itertools.product(self._splits(), self.seeds))
        kinds: list[tuple[Any, Any, Any]] = [
            (method, recipe, attention)
            for method in self.methods
            for recipe in self.recipes
            for attention in self.attentions
            if method == "qat" or (recipe, attention) != ("baseline", "none")
        ]
        groups = []
        for arch, scale, kind in itertools.product(self.archs, self.scales, kinds):
            method, recipe, attention = kind
            constants = self._constants(arch, method, recipe, attention)
            quantized: dict[str, Any] = {"recipe": recipe, "attention": attention, "method": method}
            one = RunConfig(arch=arch, scale=scale, **quantized, **constants)
            runs = [dataclasses.replace(one, split=split, seed=seed) for split, seed in replicates]
            # fold0 and fold00 are one fold.
            groups.append(list({(run.split, run.seed): run for run in runs}.values()))
        return groups

    def runs(self) -> list[RunConfig]:
        """All runs."""
        return list(itertools.chain.from_iterable(self.groups()))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        record["data"] = {"kind": self.data.kind, **dataclasses.asdict(self.data)}  # pyright: ignore
        drop_later(record)
        record["weights"] = None if self.weights is None else str(self.weights)
        for name in ("recipes", "attentions"):
            record[name] = [r if isinstance(r, str) else r.to_json() for r in getattr(self, name)]
        return json.loads(json.dumps(record))

    def _constants(self, arch: str, method: str, recipe: Any, attention: Any) -> dict[str, Any]:
        """What its runs are trained with; what the study itself says goes first."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(Training)}
        if method != "qad":
            for name in _OF_DISTILLATION:
                del shared[name]
        # What has no effect on a run of the study must not tell it apart, nor refuse it.
        for name in unused(recipe_or_rules(recipe), attention_of(attention), method):
            del shared[name]
        own = self.per_arch.get(arch, {})
        shared["model_options"] = {**own.get("model_options", {}), **self.model_options}
        missing = {name: value for name, value in own.items() if shared[name] is None}
        return shared | missing

    def _splits(self) -> list[str]:
        every = [f"fold{i}" for i in range(self.folds)]
        known = {"cv": every, "cv_crossed": [f + end for f in every for end in ("", "_swapped")]}
        parts = itertools.chain.from_iterable(known.get(s, [s]) for s in self.splits)
        return list(dict.fromkeys(parts))


def _name(recipe: Any) -> str:
    return recipe if isinstance(recipe, str) else recipe.name
