"""The named losses."""

import dataclasses

from fp4jax.losses.classes import ClassLoss
from fp4jax.losses.masks import Loss

_LOSSES: tuple[Loss | ClassLoss, ...] = (
    # BCE + Tversky without a clamp: what runs are trained with.
    Loss(name="bce_tversky", bce_weight=1.0, tversky_weight=1.0),
    # The reference's training loss.
    Loss(name="bce_tversky_ref", bce_weight=1.0, tversky_weight=1.0, clamp=20.0),
    # The reference's library losses with eps 1e-6; its sums with BCE clamp logits to +-50.
    Loss(name="dice", dice_weight=1.0, eps=1e-6),
    Loss(name="tversky", tversky_weight=1.0, eps=1e-6),
    Loss(name="bce_dice", bce_weight=1.0, dice_weight=1.0, eps=1e-6),
    Loss(name="bce_dice_ref", bce_weight=1.0, dice_weight=1.0, eps=1e-6, clamp=50.0),
    Loss(name="bce_tversky_standalone", bce_weight=1.0, tversky_weight=1.0, eps=1e-6),
    Loss(
        name="bce_tversky_standalone_ref", bce_weight=1.0, tversky_weight=1.0, eps=1e-6, clamp=50.0
    ),
    # Of classes that exclude each other.
    ClassLoss(name="ce", ce_weight=1.0),
    ClassLoss(name="ce_dice", ce_weight=1.0, dice_weight=1.0),
    ClassLoss(name="ce_tversky", ce_weight=1.0, tversky_weight=1.0),
)

_BY_NAME = {loss.name: loss for loss in _LOSSES}


def losses() -> tuple[str, ...]:
    """Names of all losses, the default first.

    Example:
        >>> losses()[:2]
        ('bce_tversky', 'bce_tversky_ref')
    """
    return tuple(_BY_NAME)


def get_loss(loss: str | Loss | ClassLoss, labels: int | None = None) -> Loss | ClassLoss:
    """A loss by name; a loss is returned as it is.

    Args:
        loss: a name of :func:`losses`, or a loss.
        labels: of multi-label masks (n, *space, labels); None leaves the loss as it is.

    Raises:
        ValueError: for an unknown name (the message lists the known ones), or if ``labels`` is
            given for a loss of classes.

    Example:
        >>> get_loss("bce_dice", labels=3).labels
        3
    """
    if isinstance(loss, str) and loss in _BY_NAME:
        loss = _BY_NAME[loss]
    if isinstance(loss, str) or not isinstance(loss, Loss | ClassLoss):
        raise ValueError(f"no loss {loss!r}; known names: {', '.join(_BY_NAME)}.")
    if labels is None:
        return loss
    if isinstance(loss, ClassLoss):
        raise ValueError(
            f"loss {loss.name!r} is of classes, whose number its logits have; leave labels out, or "
            "take a loss of masks, whose name starts with bce."
        )
    return dataclasses.replace(loss, labels=labels)
