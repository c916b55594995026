"""Models by name: create("swin", scale="4m", ...). A new model is one line in ``_MODELS``."""

import inspect
from typing import Any

from flax import nnx

from fp4jax.core.typing import DTypeLike
from fp4jax.models.basic_unet import BasicUNet
from fp4jax.models.cnn import CNN
from fp4jax.models.swin import Swin
from fp4jax.models.swin_unetr import SwinUNETR
from fp4jax.models.unet import UNet
from fp4jax.models.vit import ViT

# A class with ``high_precision`` and ``scales`` (keyword arguments by scale). MONAI's networks have
# two attributes more. ``default_scale``: None, because all their arguments have MONAI's defaults.
# ``sized_by``: the argument that stands for a size of its own; nothing of a scale goes with it.
_MODELS: dict[str, Any] = {
    "cnn": CNN,
    "vit": ViT,
    "swin": Swin,
    "swin_unetr": SwinUNETR,
    "unet": UNet,
    "basic_unet": BasicUNet,
}


def names() -> tuple[str, ...]:
    """Names that :func:`create` takes.

    Example:
        >>> names()[:3]
        ('cnn', 'vit', 'swin')
    """
    return tuple(_MODELS)


def scales(name: str) -> tuple[str, ...]:
    """Scales of a model, smallest first.

    Example:
        >>> scales("vit")
        ('500k', '4m', '15m')
    """
    return tuple(_model(name).scales)


def create(
    name: str,
    scale: str | None = None,
    *,
    in_channels: int = 3,
    num_classes: int = 1,
    image_size: int | tuple[int, ...] = 256,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None = None,
    **options: Any,
) -> nnx.Module:
    """A segmentation model: (b, h, w, in_channels) floats in, (b, h, w, num_classes) logits out.

    With ``spatial_dims=3``, for "swin_unetr", "unet" and "basic_unet": (b, depth, h, w, channels).

    ``model.train()`` and ``model.eval()`` switch dropout and batch norm; in training mode call
    ``model(x, rngs=nnx.Rngs(dropout=key))``. ``model.high_precision`` names the layers that the
    paper keeps unquantized, ready for ``fp4jax.nnx.apply_recipe(model, recipe, keep=...)``.

    Args:
        name: one of :func:`names`.
        scale: one of :func:`scales`, named after the number of parameters. Default: "4m", or
            MONAI's own default sizes for its networks, "swin_unetr", "unet" and "basic_unet".
        in_channels, num_classes: of the images and of the float32 logits.
        image_size: height and width in pixels; MONAI's networks take a size for each axis, too.
        rngs: ``params`` stream of the initial weights.
        dtype: of the computation, float32 if None; parameters are float32 in any case.
        options: arguments of the model's class, which override those of the scale. The one that
            sizes a network of MONAI's ("feature_size", "channels", "features") replaces the scale:
            all other arguments are then MONAI's defaults, or given.

    Raises:
        ValueError: for an unknown name, scale or option, or sizes that do not fit.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> model = nnx.eval_shape(lambda: create("cnn", "500k", rngs=nnx.Rngs(0)))
        >>> sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
        530753
    """
    model = _model(name)
    if scale is None:
        scale = getattr(model, "default_scale", "4m")
    if scale is not None and scale not in model.scales:
        raise ValueError(
            f"{name} has no scale {scale!r}; its scales are: {', '.join(model.scales)}."
        )
    known = set(inspect.signature(model.__init__).parameters) - {"self"}
    if unknown := set(options) - known:
        raise ValueError(
            f"{name} has no option {', '.join(sorted(unknown))}; its options are: "
            f"{', '.join(sorted(known))}."
        )
    replaced = scale is None or getattr(model, "sized_by", None) in options
    return model(
        in_channels=in_channels,
        num_classes=num_classes,
        image_size=image_size,
        rngs=rngs,
        dtype=dtype,
        **{**({} if replaced else model.scales[scale]), **options},
    )


def _model(name: str) -> Any:
    if name not in _MODELS:
        raise ValueError(f"no model {name!r}; the models are: {', '.join(_MODELS)}.")
    return _MODELS[name]
