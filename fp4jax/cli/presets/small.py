"""Studies of slices on two CPU cores."""

from typing import Any

from fp4jax.cli.presets.preset import Preset
from fp4jax.study import Expectation, Study
from fp4jax.train import Slices

# One cycle at a higher rate, for runs too short for the paper's constants.
SHORT: dict[str, Any] = {"schedule": "onecycle", "early_stopping": "none"}
# Begins with the share of positive pixels and without dropout: a few hundred steps suffice.
_QUICK_TRANSFORMER = {"dropout": 0.0, "drop_path": 0.0, "prior": 0.01}
# Patches of 8 give the transformers 8 x 8 tokens of an image of 64 x 64.
_TRANSFORMER = {"learning_rate": 2e-3, "model_options": {"patch": 8, **_QUICK_TRANSFORMER}}
_AT_64: dict[str, Any] = {
    "archs": ("cnn", "vit", "swin"),
    "scales": ("500k",),
    "batch_size": 16,
    **SHORT,
    "per_arch": {
        "cnn": {"learning_rate": 2e-3, "model_options": {"dropout": 0.1}},
        "vit": _TRANSFORMER,
        "swin": _TRANSFORMER,
    },
}


def demo() -> Preset:
    """CNN and Swin under three recipes on the embedded cohort; `make study`.

    Reference: the paper's question in miniature: 500k models, synthetic patients, 32 x 32. Patches
    of 4 give Swin the 8 x 8 tokens that it has of a 128 x 128 image. Calibrated, so that its runs
    can be exported in every form.
    Cost: under 5 minutes on two CPU cores.
    Expected: a test AUPRC of at least 0.6 for both baselines, else comparing recipes says nothing.
    Command: fp4jax study demo
    """
    study = Study(
        Slices("phantom", image_size=32, patients=100, slices=10),
        archs=("cnn", "swin"),
        recipes=("baseline", "full", "2d+rht+sr"),
        batch_size=8,
        epochs=7,
        calibrate="max",
        **SHORT,
        per_arch={
            "cnn": {"learning_rate": 3e-3, "model_options": {"dropout": 0.1}},
            "swin": {
                "learning_rate": 2e-3,
                "model_options": {"patch": 4, **_QUICK_TRANSFORMER},
            },
        },
    )
    source = "needed for a comparison"
    expected = tuple(Expectation(a, "500k", "baseline", 0.6, 1.0, source) for a in study.archs)
    return Preset(study, expected=expected)


def attention_demo() -> Preset:
    """Swin with quantized products inside attention on the embedded cohort, three seeds.

    Reference: Attn-QAT's comparison (arXiv 2603.00040) in miniature: a forward pass in FP4 with
    FlashAttention's backward pass as it is (attention_naive), against a backward pass that derives
    what the forward pass computed (attention_qat). All layers are in high precision.
    Cost: 9 runs, about 10 minutes on two CPU cores.
    Expected: a test AUPRC of at least 0.6 for the baseline, else comparing says nothing.
    Command: fp4jax study attention-demo
    """
    study = Study(
        Slices("phantom", image_size=32, patients=100, slices=10),
        archs=("swin",),
        recipes=("baseline",),
        attentions=("none", "attention_naive", "attention_qat"),
        seeds=(2026, 2027, 2028),
        batch_size=8,
        epochs=7,
        **SHORT,
        per_arch={
            "swin": {
                "learning_rate": 2e-3,
                "model_options": {"patch": 4, **_QUICK_TRANSFORMER},
            },
        },
    )
    source = "needed for a comparison"
    return Preset(study, expected=(Expectation("swin", "500k", "baseline", 0.6, 1.0, source),))


def lgg_cpu() -> Preset:
    """All architectures at 500k under recipes 0, 1, 2 and 5, two seeds, on LGG at 64 x 64.

    Reference: what of the paper's experiment two CPU cores can do. Patches of 8 give the
    transformers 8 x 8 tokens.
    Cost: 42 runs; 24 of them are trained, 8 epochs of 3 to 6 minutes in all on two CPU cores.
    Expected: no published numbers at this size; recipes within 10 % of the baseline.
    Command: fp4jax study lgg-cpu --root kaggle_3m
    """
    study = Study(
        Slices("lgg", image_size=64),
        recipes=("0", "1", "2", "5"),
        methods=("qat", "ptq"),
        seeds=(2026, 2027),
        epochs=8,
        **_AT_64,
    )
    near = "QAT costs little at this size"
    expected = tuple(
        Expectation(arch, "500k", label, 90, 110, near, percent=True)
        for arch in study.archs
        for label in study.recipes[1:]
    )
    return Preset(study, expected=expected)


def lgg_cv_cpu() -> Preset:
    """All architectures at 500k, recipes 0, 1, 2 and 5, the paper's five folds, LGG at 64 x 64.

    Reference: the paper's cross-validation (split seed 2026), with what two CPU cores can do: one
    cycle of 12 epochs. Here its contrasts are decided over patients, not over five folds.
    Contrasts, stated before any run: (1) each recipe against the baseline, within each
    architecture; (2) in the CNN, recipes that quantize gradients (1, 4, 5, 6) against those that
    quantize the forward pass alone (2, 3, 7); (3) the architecture against the recipe as sources
    of variance, by a mixed model with patients and folds as random effects. Primary: the test AUPRC
    of each patient with tumour, and F2 at the validation's threshold. Secondary: recall, Dice,
    lesions missed whole. Effect sizes with 95 % intervals; two labels are equivalent where two
    one-sided tests show a difference below 0.02.
    Cost: 60 runs of 12 epochs, about three hours on two quiet CPU cores. Every run can be
    interrupted. Further ones: --recipes 0 1 2 5 6 3 4 7 (60 more), then --seeds 2026 2027. A fold
    tests half of the patients that it holds out, 55 in all; --splits cv_crossed tests the others
    too, so that all 110 patients are paired values, in 60 runs more.
    Expected: no published numbers at this size; recipes within 10 % of the baseline.
    Command: fp4jax study lgg-cv-cpu --root kaggle_3m
    """
    study = Study(
        Slices("lgg", image_size=64),
        recipes=("0", "1", "2", "5"),
        splits=("cv",),
        epochs=12,
        **_AT_64,
    )
    near = "QAT costs little at this size"
    expected = tuple(
        Expectation(arch, "500k", label, 90, 110, near, percent=True)
        for arch in study.archs
        for label in study.recipes[1:]
    )
    return Preset(study, expected=expected)
