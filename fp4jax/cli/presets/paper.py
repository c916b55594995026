"""The paper's studies (arXiv 2605.27616) at their full size."""

from fp4jax.cli.presets.preset import Preset
from fp4jax.study import Expectation, Study
from fp4jax.train import Slices

ALL_RECIPES = ("0", "1", "2", "3", "4", "5", "6", "7")
# The set as it is stored; where it lies is for the user to say.
_LGG = Slices("lgg")
_CV = "the paper's five folds, their range widened by a tenth of it"


def paper_holdout() -> Preset:
    """All architectures at 4m under all eight recipes, on the holdout split.

    Reference: arXiv 2605.27616, the README's first run: 100 epochs, batch 32, 256 x 256.
    Cost: 24 runs; the goal is a minute a run on one H200 (the paper's plan: 9 minutes on an RTX
    PRO 6000), days on a CPU.
    Expected: no published absolute numbers; Swin within 5 % of its baseline under every recipe.
    Command: fp4jax study paper-holdout --root kaggle_3m
    """
    study = Study(_LGG, archs=("cnn", "vit", "swin"), scales=("4m",), recipes=ALL_RECIPES)
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
    Command: fp4jax study paper-cv --root kaggle_3m
    """
    study = Study(_LGG, archs=("swin", "cnn"), scales=("4m",), recipes=("0", "5"), splits=("cv",))
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
    Command: fp4jax study paper-seeds --root kaggle_3m
    """
    study = Study(
        _LGG,
        archs=("swin", "cnn"),
        scales=("500k", "4m", "15m"),
        recipes=ALL_RECIPES,
        seeds=tuple(range(2026, 2036)),
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
