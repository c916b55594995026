"""The target "stablehlo": a folder with an artifact of jax.export, and what its arrays mean."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.typing import Array, Float
from fp4jax.deploy.account import Account
from fp4jax.deploy.layer_rows import float_bytes, layer_rows
from fp4jax.deploy.stablehlo.promise import Promise, promise_of
from fp4jax.deploy.subject import Subject
from fp4jax.deploy.targets import Options, Target, register_target
from fp4jax.extras import Extra
from fp4jax.files import replacing_folder, write_json
from fp4jax.version import __version__

#: The artifact runs on any of them.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
ARTIFACT, ABOUT = "model.stablehlo", "about.json"
#: Images that the artifact is compared on.
EXAMPLES = 2


def register() -> None:
    """Makes the target known."""
    register_target(Target("stablehlo", "an artifact of jax.export: JAX alone runs it", write))


def write(subject: Subject, path: Path, options: Options) -> Account:
    """Exports, compares, and only then hands over.

    Raises:
        ValueError: the artifact differs from the packed model by more than ``options.bound``.
        OSError: it cannot be written; nothing is left of it.
        ModuleNotFoundError: flatbuffers is not installed.
    """
    with Extra("deploy"):
        import flatbuffers  # noqa: F401  (jax.export serializes with it)

    exported = to_stablehlo(subject.model, subject.image, options)
    data = bytes(exported.serialize())
    images = subject.examples(options.batch or EXAMPLES)
    worst = _difference(data, subject.model, images, options.channels_first)
    if not worst <= options.bound:
        raise ValueError(
            f"the artifact differs from the packed model by {worst:.1e} of the largest logit, more "
            f"than {options.bound:.1e}; nothing was written. Please report it, or set bound higher."
        )
    promise = promise_of(_jaxlib())
    record = _about(subject, exported, options, promise)
    with replacing_folder(path, keep_existing=True) as temporary:
        (temporary / ARTIFACT).write_bytes(data)
        write_json(temporary / ABOUT, record)
    rows = layer_rows(subject.model, "packed FP4 product")
    checked = f"largest difference from the packed model: {worst:.1e}; {promise}"
    return Account(path, "stablehlo", len(data), float_bytes(subject.model), rows, checked)


def to_stablehlo(
    model: nnx.Module, image: tuple[int, ...], options: Options
) -> jax.export.Exported:
    """images float32 -> logits, for any batch or ``options.batch``; each image as if alone.

    Codes and scales are constants of the program.

    Args:
        model: in evaluation mode, packed or not.
        image: shape of one, (*space, channels).
        options: ``batch`` and ``channels_first``.

    Example:
        >>> layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> to_stablehlo(layer, (8, 3), Options()).in_avals
        (ShapedArray(float32[batch,8,3]),)
    """
    graph, state = nnx.split(model)
    first = options.channels_first

    def one(image: Float[Array, "..."]) -> Float[Array, "..."]:
        call: Any = nnx.merge(graph, state)
        logits = call((jnp.moveaxis(image, 0, -1) if first else image)[None])[0]
        return jnp.moveaxis(logits, -1, 0) if first else logits

    shape = (image[-1], *image[:-1]) if first else image
    size = options.batch or jax.export.symbolic_shape("batch")[0]
    call = jax.export.export(jax.jit(jax.vmap(one)), platforms=PLATFORMS)
    return call(jax.ShapeDtypeStruct((size, *shape), jnp.float32))


def _difference(data: bytes, model: nnx.Module, images: Any, channels_first: bool) -> float:
    """Of the artifact that is read again, over the largest logit of the model."""
    graph, state = nnx.split(model)

    @jax.jit
    def alone(state: Any, image: Any) -> Any:
        call: Any = nnx.merge(graph, state)
        return call(image[None])[0]

    expected = np.stack([np.asarray(alone(state, image)) for image in images])
    fed = np.moveaxis(images, -1, 1) if channels_first else images
    found = np.asarray(jax.export.deserialize(bytearray(data)).call(jnp.asarray(fed)))
    if channels_first:
        found = np.moveaxis(found, 1, -1)
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1))


def _jaxlib() -> str:
    import jaxlib.version

    return jaxlib.version.__version__


def _about(
    subject: Subject, exported: jax.export.Exported, options: Options, promise: Promise
) -> dict[str, Any]:
    """What about.json says."""
    until = promise.until
    return {
        "fp4jax": __version__,
        "jax": jax.__version__,
        "jaxlib": promise.jaxlib,
        "readable_until": None if until is None else until.isoformat(),
        "readable_by": promise.rule,
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "images": [str(n) for n in exported.in_avals[0].shape],
        "logits": [str(n) for n in exported.out_avals[0].shape],
        "channels_first": options.channels_first,
        "model": json.loads(subject.about.to_json()),
    }
