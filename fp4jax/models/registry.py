"""Models by name: create("swin", scale="4m", ...); more of them by :func:`register`."""

import inspect
from collections.abc import Mapping
from typing import Any

from flax import nnx

from fp4jax.core.typing import DTypeLike
from fp4jax.models import typed_options
from fp4jax.models.basic_unet import BasicUNet
from fp4jax.models.cnn import CNN
from fp4jax.models.swin import Swin
from fp4jax.models.swin_unetr import SwinUNETR
from fp4jax.models.typed_options import Option
from fp4jax.models.unet import UNet
from fp4jax.models.vit import ViT
from fp4jax.registration import Registry

_MODELS: Registry[Any] = Registry("model")

# What every constructor takes, by keyword.
_ARGUMENTS = ("in_channels", "num_classes", "image_size", "rngs", "dtype")


def register(name: str, cls: type) -> None:
    """Makes a class a model that :func:`create`, and with it every command, knows by name.

    The class is an ``nnx.Module`` of images or volumes (b, *space, in_channels), channels last,
    to float32 logits (b, *space, num_classes); it is called ``model(x, rngs=None)``. It knows
    nothing of quantization. It has

    * ``scales``: options by the name of a size, smallest first, such as ``{"500k": {"width": 16}}``
      (``{}`` for a single size),
    * ``high_precision``: regular expressions of the paths of the layers that no recipe quantizes, a
      class attribute or a property,
    * a constructor with the keyword arguments ``in_channels``, ``num_classes``, ``image_size``,
      ``rngs`` and ``dtype`` (None: float32), and ``spatial_dims`` if it takes volumes. All others
      are the model's options (:func:`options`): annotate them.

    Three attributes are optional. ``default_scale``: None if the constructor's defaults are the
    default size; else "4m" or, where there is none, the first scale is. ``sized_by``: the option
    that is a size of its own; where it is given, nothing of a scale goes with it. ``attends``:
    False for a model without attention, which refuses recipes of attention before it is built.

    Args:
        name: of letters, digits and ``_ . + -``, for it is part of the names of runs.
        cls: the class. Registering the same class again does nothing.

    Raises:
        ValueError: the name is taken, or the class lacks something of the above.

    Example:
        >>> class Pixelwise(nnx.Module):
        ...     scales = {"tiny": {"width": 4}}
        ...     high_precision = (r"head$",)
        ...
        ...     def __init__(
        ...         self, *, width: int, in_channels, num_classes, image_size, rngs, dtype=None
        ...     ):
        ...         del image_size
        ...         self.body = nnx.Linear(in_channels, width, dtype=dtype, rngs=rngs)
        ...         self.head = nnx.Linear(width, num_classes, dtype=dtype, rngs=rngs)
        ...
        ...     def __call__(self, x, *, rngs=None):
        ...         return self.head(nnx.relu(self.body(x))).astype("float32")
        >>> register("pixelwise", Pixelwise)
        >>> create("pixelwise", width="8", rngs=nnx.Rngs(0)).body.kernel.shape
        (3, 8)
        >>> _MODELS.remove("pixelwise")
    """
    if problem := _problem(cls):
        raise ValueError(f"model {name!r} cannot be registered: {problem}")
    _MODELS.add(name, cls)


def _problem(cls: Any) -> str | None:
    if not inspect.isclass(cls):
        return f"{cls!r} is no class."
    scales = getattr(cls, "scales", None)
    if not isinstance(scales, Mapping) or not all(isinstance(s, Mapping) for s in scales.values()):
        return f"{cls.__name__}.scales is {scales!r}; give a dictionary of options for each scale."
    if not hasattr(cls, "high_precision"):
        return (
            f"{cls.__name__} has no high_precision; give a tuple of regular expressions of the "
            "layers that stay in high precision, () for none."
        )
    known = typed_options.parameters(cls)
    anything = any(
        one.kind is inspect.Parameter.VAR_KEYWORD
        for one in inspect.signature(cls.__init__).parameters.values()
    )
    if missing := [name for name in _ARGUMENTS if name not in known and not anything]:
        return f"the constructor of {cls.__name__} lacks the arguments {', '.join(missing)}."
    default = getattr(cls, "default_scale", None)
    if default is not None and default not in scales:
        return f"{cls.__name__}.default_scale is {default!r}; allowed: None, {', '.join(scales)}."
    options = typed_options.of_class(cls)
    sizes = dict(scales) if scales and _default_scale(cls) is not None else {None: {}, **scales}
    for scale, values in sizes.items():
        if unknown := [] if anything else sorted(set(values) - set(options)):
            return f"scale {scale!r} sets {', '.join(unknown)}, no options of {cls.__name__}."
        if missing := [o.name for o in options.values() if o.required and o.name not in values]:
            return f"scale {scale!r} of {cls.__name__} leaves {', '.join(missing)} without a value."
    return None


def _default_scale(cls: Any) -> str | None:
    usual = "4m" if "4m" in cls.scales else next(iter(cls.scales), None)
    return getattr(cls, "default_scale", usual)


for _name, _class in {
    "cnn": CNN,
    "vit": ViT,
    "swin": Swin,
    "swin_unetr": SwinUNETR,
    "unet": UNet,
    "basic_unet": BasicUNet,
}.items():
    register(_name, _class)


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
    return tuple(_MODELS.find(name).scales)


def default_scale(name: str) -> str | None:
    """The scale of a model that :func:`create` takes if none is given; None: its own defaults.

    Example:
        >>> default_scale("vit"), default_scale("unet")
        ('4m', None)
    """
    return _default_scale(_MODELS.find(name))


def spatial_dims(name: str) -> tuple[int, ...]:
    """Which images a model takes: (2,), or (2, 3) if volumes too.

    Example:
        >>> spatial_dims("cnn"), spatial_dims("unet")
        ((2,), (2, 3))
    """
    return (2, 3) if "spatial_dims" in typed_options.parameters(_MODELS.find(name)) else (2,)


def attends(name: str) -> bool:
    """Whether a model may have attention; False only of those that say so.

    Example:
        >>> attends("cnn"), attends("swin")
        (False, True)
    """
    return bool(getattr(_MODELS.find(name), "attends", True))


def options(name: str) -> dict[str, Option]:
    """The options of a model, by name: their types, defaults and what they mean.

    Without ``in_channels``, ``num_classes``, ``image_size``, ``rngs``, ``dtype`` and
    ``spatial_dims``, which are arguments of :func:`create`.

    Raises:
        ValueError: for an unknown model.

    Example:
        >>> dropout = options("cnn")["dropout"]
        >>> dropout.default, dropout.allowed, dropout.help
        (0.5, 'a number', 'rate.')
    """
    return typed_options.of_class(_MODELS.find(name))


def parse_options(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a model, given as text or as JSON has them, as values of their types.

    Text is ``4``, ``0.1``, ``true``, ``none``, a word, or a list, ``4,8``; ``4`` and ``4,`` are
    lists of one where a list is wanted. Values that are of their type already stay as they are.

    Raises:
        ValueError: an unknown model or option, or a value that does not fit; the message says what
            is allowed.

    Example:
        >>> parse_options("unet", {"channels": "8,16", "strides": 2, "dropout": "0.1"})
        {'channels': (8, 16), 'strides': (2,), 'dropout': 0.1}
        >>> parse_options("unet", {"strides": "two"})
        Traceback (most recent call last):
        ...
        ValueError: unet: option strides is 'two'; allowed: a list of integers or lists of integers.
    """
    return typed_options.parse(name, options(name), values)


def create(
    name: str,
    scale: str | None = None,
    *,
    in_channels: int = 3,
    num_classes: int = 1,
    image_size: int | tuple[int, ...] = 256,
    spatial_dims: int = 2,
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
        spatial_dims: 2 for images, 3 for volumes.
        rngs: ``params`` stream of the initial weights.
        dtype: of the computation, float32 if None; parameters are float32 in any case.
        options: of the model (:func:`options`), as values or as text (:func:`parse_options`); they
            override those of the scale. The one that sizes a network of MONAI's ("feature_size",
            "channels", "features") replaces the scale: all other arguments are then MONAI's
            defaults, or given.

    Raises:
        ValueError: for an unknown name, scale or option, or sizes that do not fit.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> model = nnx.eval_shape(lambda: create("cnn", "500k", rngs=nnx.Rngs(0)))
        >>> sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
        530753
    """
    model = _MODELS.find(name)
    chosen = _chosen(name, scale, options)
    space = {}
    if "spatial_dims" in typed_options.parameters(model):
        space = {"spatial_dims": spatial_dims}
    elif spatial_dims != 2:
        raise ValueError(
            f"{name} is a model of images and spatial_dims is {spatial_dims}; leave it at 2."
        )
    return model(
        in_channels=in_channels,
        num_classes=num_classes,
        image_size=image_size,
        rngs=rngs,
        dtype=dtype,
        **space,
        **chosen,
    )


def resolved_options(
    name: str, scale: str | None = None, values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The value of every option of the model that :func:`create` makes.

    Args:
        name, scale: as of :func:`create`.
        values: its further arguments.

    Raises:
        ValueError: for an unknown name, scale or option.

    Example:
        >>> resolved_options("unet", values={"channels": (8, 16), "strides": (2,)})["norm"]
        'instance'
    """
    defaults = {key: one.default for key, one in options(name).items() if not one.required}
    return defaults | _chosen(name, scale, values or {})


def _chosen(name: str, scale: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a scale or the caller sets."""
    model = _MODELS.find(name)
    if scale is None:
        scale = _default_scale(model)
    if scale is not None and scale not in model.scales:
        raise ValueError(
            f"{name} has no scale {scale!r}; its scales are: {', '.join(model.scales)}."
        )
    given = parse_options(name, values)
    replaced = scale is None or getattr(model, "sized_by", None) in given
    return {**({} if replaced else model.scales[scale]), **given}
