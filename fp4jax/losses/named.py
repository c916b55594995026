"""The named losses; more of them by :func:`register`."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from fp4jax.losses.classes import ClassLoss
from fp4jax.losses.masks import Loss
from fp4jax.losses.own import FunctionLoss, SegmentationLoss
from fp4jax.registration import Registry

_BUILT_IN: tuple[Loss | ClassLoss, ...] = (
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


@dataclasses.dataclass(frozen=True)
class _Factory:
    """Makes the loss for a number of labels."""

    function: Callable[[int | None], Any]


_LOSSES: Registry[SegmentationLoss | _Factory] = Registry("loss")


def register(name: str, loss: Any, *, exclusive: bool = False) -> None:
    """Makes a loss known by name to :func:`get_loss`, and with it to every command.

    Args:
        name: of letters, digits and ``_ . + -``.
        loss: one of

            * a :class:`Loss` or :class:`ClassLoss` of that name, or any other object with
              ``name``, ``exclusive``, ``__call__`` and ``with_components`` as they have them
              (:class:`SegmentationLoss`);
            * a function ``(logits, masks, weights) -> scalar``: float logits (n, *space, k),
              masks of the same shape (for one region perhaps without the last axis; integers
              (n, *space) if ``exclusive``), weights (n,) of the images or None;
            * a factory ``(labels) -> loss`` of the first kind, for losses that depend on the number
              of labels (None: one).

            Registering the same once more does nothing.
        exclusive: that a function is a loss of classes which exclude each other.

    Raises:
        ValueError: the name is taken, or the loss is none of the above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def focal(logits, masks, weights=None):
        ...     z, y = logits.reshape(masks.shape), masks.astype(jnp.float32)
        ...     p = jax.nn.sigmoid(z)
        ...     pixels = -y * (1 - p) ** 2 * jnp.log(p) - (1 - y) * p**2 * jnp.log(1 - p)
        ...     images = pixels.reshape(len(y), -1).mean(1)
        ...     w = jnp.ones_like(images) if weights is None else weights
        ...     return (images * w).sum() / jnp.maximum(w.sum(), 1e-12)
        >>> register("focal", focal)
        >>> float(get_loss("focal")(jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4)))) < 0.18
        True
        >>> _LOSSES.remove("focal")
    """
    _LOSSES.add(name, _checked(name, loss, exclusive))


def _checked(name: str, loss: Any, exclusive: bool) -> SegmentationLoss | _Factory:
    if not inspect.isclass(loss) and isinstance(loss, SegmentationLoss):
        if loss.name != name:
            raise ValueError(
                f"loss {name!r} cannot be registered: its own name is {loss.name!r}; the two must "
                "be equal."
            )
        return loss
    function: Any = loss
    arguments = _positional(function)
    if arguments[:1] == ["labels"]:
        return _Factory(function)
    if len(arguments) < 3:
        raise ValueError(
            f"loss {name!r} cannot be registered: {loss!r} is neither an object with name, "
            "exclusive, __call__ and with_components, nor a function of (logits, masks, weights), "
            "nor a factory whose first argument is labels."
        )
    return FunctionLoss(name, function, exclusive)


def _positional(function: Any) -> list[str]:
    """Names of the arguments of a function that may be given by position."""
    if not callable(function):
        return []
    every = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in every if one.kind in kinds]


for _loss in _BUILT_IN:
    register(_loss.name, _loss)


def losses() -> tuple[str, ...]:
    """Names of all losses, the default first.

    Example:
        >>> losses()[:2]
        ('bce_tversky', 'bce_tversky_ref')
    """
    return tuple(_LOSSES)


def get_loss(loss: str | SegmentationLoss, labels: int | None = None) -> SegmentationLoss:
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
    found = loss if isinstance(loss, SegmentationLoss) else _LOSSES.find(loss)
    if isinstance(found, _Factory):
        made = found.function(labels)
        if not isinstance(made, SegmentationLoss):
            raise ValueError(
                f"the factory of loss {loss!r} returned {made!r}; an object with name, exclusive, "
                "__call__ and with_components is needed."
            )
        return made
    if labels is None:
        return found
    if found.exclusive:
        raise ValueError(
            f"loss {found.name!r} is of classes, whose number its logits have; leave labels out, "
            "or take a loss of masks, whose name starts with bce."
        )
    # A loss of one's own takes any number of labels, or has a factory.
    return dataclasses.replace(found, labels=labels) if isinstance(found, Loss) else found
