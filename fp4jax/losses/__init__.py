"""Segmentation losses: cross-entropy, Dice, Tversky, their sums, distillation.

Three kinds of targets, with n images, any number of spatial axes and logits channels last:

=========== ==================== ==================== ==========================================
targets     logits               masks                loss
=========== ==================== ==================== ==========================================
binary      (n, *space[, 1])     (n, *space[, 1])     ``get_loss("bce_tversky")``
multi-label (n, *space, k)       (n, *space, k)       ``get_loss("bce_tversky", labels=k)``
multi-class (n, *space, k + 1)   (n, *space) integer  ``get_loss("ce_dice")``
=========== ==================== ==================== ==========================================

Multi-label targets are k independent masks, which may overlap, such as the nested regions of
BraTS; each is a sigmoid. Multi-class targets are maps of the integers 0 (background) to k; the
classes exclude each other, a softmax. With p the probability and y the mask of a label or class,
and per image TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y:

    bce      max(z, 0) - z y + log(1 + exp(-|z|)), mean over pixels and labels
    ce       log(sum_j exp(z_j)) - z_y, mean over pixels
    tversky  1 - (TP + eps) / (TP + alpha FP + beta FN + eps), mean over labels and images
    dice     1 - (2 TP + eps) / (sum p + sum y + eps), mean over labels and images

Masks have values 0 and 1 of any real dtype; all is computed in float32. ``weights`` (n,) weighs the
images of a batch: an image of weight 0, such as the padding of a last short batch, changes neither
value nor gradient, whatever it contains. If all weights are 0 the loss is 0.

The reference's training loss, called "tversky" there, is ``bce_tversky_ref`` here: it clamps logits
to +-20, beyond which no gradient passes. The default ``bce_tversky`` leaves the clamp out.
"""

from fp4jax.losses.binary import (
    bce as bce,
    dice as dice,
    mask_from_255 as mask_from_255,
    tversky as tversky,
)
from fp4jax.losses.classes import (
    CLASS_COMPONENTS as CLASS_COMPONENTS,
    ClassLoss as ClassLoss,
    class_divergence as class_divergence,
)
from fp4jax.losses.distillation import (
    Distillation as Distillation,
    distillation_weight as distillation_weight,
    divergence as divergence,
)
from fp4jax.losses.masks import COMPONENTS as COMPONENTS, Loss as Loss
from fp4jax.losses.named import get_loss as get_loss, losses as losses, register as register
from fp4jax.losses.own import FunctionLoss as FunctionLoss, SegmentationLoss as SegmentationLoss
