"""Multiply-adds of a model per image, counted from one abstract call."""

import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.models.layers import Upsample
from fp4jax.ops.traced_products import traced_products

# Marks what a layer computes, which is counted from its shapes and not from its products: those
# of a transposed convolution contain zeros, and those of a quantized layer are cut into pieces.
_LAYER = "macs_of_layer"


def macs(model: nnx.Module, image_size: int | tuple[int, ...]) -> dict[str, int]:
    """Multiply-adds per image of every Linear, convolution and product of activations.

    A convolution counts output positions x kernel weights, a transposed one input positions x
    kernel weights. Products outside layers, such as q k^T and p v, count under the name of their
    ``jax.named_scope`` ("blocks.0.attn.qk"). Norms, activations and resizing are not counted.

    Args:
        model: with an attribute ``in_channels``, and ``spatial_dims`` if not 2; a recipe may have
            been applied, the numbers are the same. Nothing is computed and the model is not
            changed; it may be abstract, made by ``nnx.eval_shape``.
        image_size: pixels per side, or the size along each axis.

    Returns:
        Multiply-adds by path, layers first; floating-point operations are twice as many.

    Raises:
        ValueError: for an image size that the model does not take.

    Example:
        >>> from fp4jax.models.cnn import CNN
        >>> model = CNN(stages=2, channels=16, image_size=16, rngs=nnx.Rngs(0))
        >>> macs(model, 16)["encoders.0"]  # 8 x 8 positions x 4 x 4 x 3 x 16 weights
        49152
    """
    sides = (image_size,) * getattr(model, "spatial_dims", 2)
    size = sides if isinstance(image_size, int) else tuple(image_size)
    images = jax.ShapeDtypeStruct((1, *size, getattr(model, "in_channels")), jnp.float32)  # noqa: B009
    counts: Counter[str] = Counter()
    graph, state = nnx.split(model)

    def call(state, x):
        # A copy: what happens to it stays in this trace.
        copy = nnx.merge(graph, state)
        copy.eval()
        for path, layer in list(nnx.iter_modules(copy)):
            if isinstance(layer, (nnx.Linear, nnx.Conv, nnx.ConvTranspose)):
                _count_calls(layer, ".".join(map(str, path)), counts)
        return copy(x)

    jaxpr = jax.make_jaxpr(call)(state, images)
    products: Counter[str] = Counter()
    for product in traced_products(jaxpr.jaxpr):
        if _LAYER not in product.scope:
            products[".".join(product.scope) or "(model)"] += product.multiply_adds
    return {**counts, **products}


def _count_calls(layer: Any, path: str, counts: Counter[str]) -> None:
    """Makes a layer add its multiply-adds to ``counts`` when it is called."""
    kind = type(layer)

    def __call__(self, x, *args, **kwargs):  # noqa: N807
        with jax.named_scope(_LAYER):
            y = kind.__call__(self, x, *args, **kwargs)
        # One product with the kernel per output position of a convolution, else per input.
        at = y if isinstance(self, nnx.Conv) and not isinstance(self, Upsample) else x
        positions = at.size // at.shape[-1]
        counts[path] += positions * math.prod(self.kernel.get_value().shape)
        return y

    layer.__class__ = type(kind.__name__, (kind,), {"__call__": __call__})
