"""How MONAI makes the network: class and arguments, for the key ``network_def`` of a bundle."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flax import nnx

from fp4jax import models
from fp4jax.models.windows import relative_position_index
from fp4jax.predict.about import About
from fp4jax.train.config import MONAI


def network_def(about: About, model: nnx.Module) -> dict[str, Any]:
    """``_target_`` and all arguments of MONAI's class, so that its defaults may change.

    Args:
        about: what makes the model.
        model: that it makes.

    Raises:
        ValueError: a network that MONAI does not have, or a size of it.

    Example:
        >>> about = About("unet", "monai", options={"channels": (4, 8), "strides": (2,)})
        >>> network_def(about, about.create())["channels"]
        [4, 8]
    """
    if about.arch not in _ARGUMENTS:
        raise ValueError(
            f"{about.arch} is no network of MONAI's; bundles are of {', '.join(_ARGUMENTS)}."
        )
    options = _options(about)
    name, arguments = _ARGUMENTS[about.arch]
    return {
        "_target_": name,
        "spatial_dims": about.spatial_dims,
        "in_channels": about.in_channels,
        "out_channels": about.num_classes,
        **arguments(options, model),
    }


def buffers(about: About, names: Iterable[str]) -> dict[str, np.ndarray]:
    """What MONAI's state dict holds beside weights: counters of batches, and tables of windows.

    Args:
        about: what makes the model.
        names: of its weights.

    Example:
        >>> about = About("unet", "monai", options={"channels": (4, 8), "strides": (2,)})
        >>> buffers(about, ["norm.running_mean"])
        {'norm.num_batches_tracked': array(0)}
    """
    found: dict[str, np.ndarray] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        if last == "running_mean":
            found[f"{module}.num_batches_tracked"] = np.asarray(np.int64(0))
        elif last == "relative_position_bias_table":
            window = _options(about)["window_size"]
            sizes = (window,) * about.spatial_dims if isinstance(window, int) else tuple(window)
            index = relative_position_index(sizes).astype(np.int64)
            found[f"{module}.relative_position_index"] = index
    return found


def _options(about: About) -> dict[str, Any]:
    scale = None if about.scale == MONAI else about.scale
    return models.resolved_options(about.arch, scale, about.options)


def _act(name: str, slope: float) -> Any:
    return ["LeakyReLU", {"negative_slope": slope}] if name == "leakyrelu" else name


def _unet(options: dict[str, Any], model: Any) -> dict[str, Any]:
    del model
    return {
        "channels": list(options["channels"]),
        "strides": [s if isinstance(s, int) else list(s) for s in options["strides"]],
        "num_res_units": options["num_res_units"],
        "norm": options["norm"],
        "act": _act(options["act"], 0.01),
        "dropout": options["dropout"],
    }


def _basic_unet(options: dict[str, Any], model: Any) -> dict[str, Any]:
    del model
    norm = options["norm"]
    return {
        "features": list(options["features"]),
        "norm": ["instance", {"affine": True}] if norm == "instance" else norm,
        "act": _act(options["act"], 0.1),
        "dropout": options["dropout"],
    }


def _swin_unetr(options: dict[str, Any], model: Any) -> dict[str, Any]:
    window, size = options["window_size"], options["feature_size"]
    if size % 12:
        raise ValueError(
            f"feature_size is {size}, and MONAI's SwinUNETR takes multiples of 12 only, so that it "
            "cannot load these weights: export the run to another target, or train one with "
            "--scale monai, or --model.feature-size 12, 24 or 48."
        )
    return {
        "feature_size": options["feature_size"],
        "depths": list(options["depths"]),
        "num_heads": [stage.blocks[0].attn.heads for stage in model.swin.stages],
        "window_size": window if isinstance(window, int) else list(window),
        "mlp_ratio": options["mlp_ratio"],
        "qkv_bias": options["qkv_bias"],
        "drop_rate": options["dropout"],
        "attn_drop_rate": options["attention_dropout"],
        "dropout_path_rate": options["drop_path"],
        "normalize": options["normalize"],
        "use_v2": options["use_v2"],
        "downsample": options["patch_merging"],
    }


_Arguments = Callable[[dict[str, Any], Any], dict[str, Any]]
_ARGUMENTS: dict[str, tuple[str, _Arguments]] = {
    "unet": ("UNet", _unet),
    "basic_unet": ("BasicUNet", _basic_unet),
    "swin_unetr": ("SwinUNETR", _swin_unetr),
}
