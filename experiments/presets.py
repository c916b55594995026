"""Studies by name, for ``python -m experiments.study NAME``.

Each function's text says what the study is for, what it costs, what is expected and its command.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tyro

from experiments.command import Source
from fp4jax.study import Expectation, Study

ALL_RECIPES = ("0", "1", "2", "3", "4", "5", "6", "7")
# Of the LGG set as it is stored; where it lies is for the user to say.
_LGG = {"data": "lgg"}
# One cycle at a higher rate, for runs too short for the paper's constants.
_SHORT: dict[str, Any] = {"schedule": "onecycle", "early_stopping": "none"}
# Begins with the share of positive pixels and without dropout: a few hundred steps suffice.
_QUICK_TRANSFORMER = {"dropout": 0.0, "drop_path": 0.0, "prior": 0.01}
_CV = "the paper's five folds, their range widened by a tenth of it"


@dataclasses.dataclass(frozen=True)
class Options(Study):
    """A study of which every field but one is an option of the command line."""

    per_arch: tyro.conf.Suppress[dict] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A study, its data, and what it should find."""

    study: Study
    source: Source = dataclasses.field(default_factory=Source)
    expected: tuple[Expectation, ...] = ()


def demo() -> Preset:
    """CNN and Swin under three recipes on the embedded cohort; `make study`.

    Reference: the paper's question in miniature: 500k models, synthetic patients, 32 x 32. Patches
    of 4 give Swin the 8 x 8 tokens that it has of a 128 x 128 image.
    Cost: under 5 minutes on two CPU cores.
    Expected: a test AUPRC of at least 0.6 for both baselines, else comparing recipes says nothing.
    Command: python -m experiments.study demo
    """
    study = Study(
        archs=("cnn", "swin"),
        recipes=("baseline", "full", "2d+rht+sr"),
        image_size=32,
        batch_size=8,
        epochs=7,
        **_SHORT,
        per_arch={
            "cnn": {"learning_rate": 3e-3, "model_options": {"dropout": 0.1}},
            "swin": {
                "learning_rate": 2e-3,
                "model_options": {"patch": 4, **_QUICK_TRANSFORMER},
            },
        },
    )
    source = "needed for a comparison"
    return Preset(
        study,
        Source(patients=100, slices=10),
        tuple(Expectation(a, "500k", "baseline", 0.6, 1.0, source) for a in study.archs),
    )


def lgg_cpu() -> Preset:
    """All architectures at 500k under recipes 0, 1, 2 and 5, two seeds, on LGG at 64 x 64.

    Reference: what of the paper's experiment two CPU cores can do. Patches of 8 give the
    transformers 8 x 8 tokens.
    Cost: 24 runs of 8 epochs, of 3 to 6 minutes each on two CPU cores.
    Expected: no published numbers at this size; recipes within 10 % of the baseline.
    Command: python -m experiments.study lgg-cpu --root kaggle_3m
    """
    transformer = {"learning_rate": 2e-3, "model_options": {"patch": 8, **_QUICK_TRANSFORMER}}
    archs, labels = ("cnn", "vit", "swin"), ("full", "forward_only", "2d+rht+sr")
    study = Study(
        archs=archs,
        recipes=("0", "1", "2", "5"),
        methods=("qat", "ptq"),
        seeds=(2026, 2027),
        image_size=64,
        epochs=8,
        batch_size=16,
        **_LGG,
        **_SHORT,
        per_arch={
            "cnn": {"learning_rate": 2e-3, "model_options": {"dropout": 0.1}},
            "vit": transformer,
            "swin": transformer,
        },
    )
    near = "QAT costs little at this size"
    expected = tuple(
        Expectation(arch, "500k", label, 90, 110, near, percent=True)
        for arch in archs
        for label in labels
    )
    return Preset(study, expected=expected)


def paper_holdout() -> Preset:
    """All architectures at 4m under all eight recipes, on the holdout split.

    Reference: arXiv 2605.27616, the README's first run: 100 epochs, batch 32, 256 x 256.
    Cost: 24 runs; the goal is a minute a run on one H200 (the paper's plan: 9 minutes on an RTX
    PRO 6000), days on a CPU.
    Expected: no published absolute numbers; Swin within 5 % of its baseline under every recipe.
    Command: python -m experiments.study paper-holdout --root kaggle_3m
    """
    study = Study(archs=("cnn", "vit", "swin"), scales=("4m",), recipes=ALL_RECIPES, **_LGG)
    robust = "the paper: Swin is the most robust"
    labels = study.recipes[1:]
    return Preset(
        study,
        expected=tuple(
            Expectation("swin", "4m", label, 95, 105, robust, percent=True) for label in labels
        ),
    )


def paper_cv() -> Preset:
    """Swin and CNN at 4m under recipes 0 and 5, patient-level five-fold cross-validation.

    Reference: the paper's cross-validation figure: seed 2026, split seed 2026.
    Cost: 20 runs of at most 100 epochs; the folds go side by side on a GPU.
    Expected: mean test AUPRC 0.793 and 0.800 (Swin), 0.747 and 0.725 (CNN); folds differ by a
    standard deviation of 0.065 to 0.094, so single folds say little.
    Command: python -m experiments.study paper-cv --root kaggle_3m
    """
    study = Study(archs=("swin", "cnn"), scales=("4m",), recipes=("0", "5"), splits=("cv",), **_LGG)
    published = {
        ("swin", "baseline"): (0.75, 0.83),
        ("swin", "2d+rht+sr"): (0.76, 0.84),
        ("cnn", "baseline"): (0.70, 0.80),
        ("cnn", "2d+rht+sr"): (0.67, 0.78),
    }
    expected = tuple(
        Expectation(arch, "4m", label, low, high, _CV)
        for (arch, label), (low, high) in published.items()
    )
    return Preset(study, expected=expected)


def paper_seeds() -> Preset:
    """Swin and CNN at three scales under all eight recipes, ten seeds.

    Reference: the paper's sensitivity figure, seeds 2026 to 2035.
    Cost: 480 runs; ten seeds side by side should cost at most three of one (Swin).
    Expected: Swin within 5 % of its baseline everywhere; the 15m CNN lowest under `full`.
    Command: python -m experiments.study paper-seeds --root kaggle_3m
    """
    study = Study(
        archs=("swin", "cnn"),
        scales=("500k", "4m", "15m"),
        recipes=ALL_RECIPES,
        seeds=tuple(range(2026, 2036)),
        **_LGG,
    )
    robust = "the paper: Swin is the most robust"
    expected = [
        Expectation("swin", scale, label, 95, 105, robust, percent=True)
        for scale in study.scales
        for label in study.recipes[1:]
    ]
    hurt = "the paper: large CNNs suffer from quantized gradients"
    expected.append(Expectation("cnn", "15m", "full", 75, 99, hurt, percent=True))
    return Preset(study, expected=tuple(expected))


PRESETS: dict[str, Callable[[], Preset]] = {
    function.__name__.replace("_", "-"): function
    for function in (demo, lgg_cpu, paper_holdout, paper_cv, paper_seeds)
}
