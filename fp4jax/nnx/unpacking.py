"""unpack(model): float kernels again, with the values that the codes stand for."""

import jax.numpy as jnp
from flax import nnx

from fp4jax.nnx.applying import remove_recipe
from fp4jax.nnx.keys import Model
from fp4jax.nnx.packed_files import check_codes, is_packed
from fp4jax.nnx.packed_operations import PackedOp
from fp4jax.nnx.slots import layers
from fp4jax.packed.layout import Layout
from fp4jax.packed.stored import StoredMatrix


def unpack(model: Model) -> Model:
    """A packed model in high precision, whose kernels are what the codes stand for.

    Weights lie on the FP4 grid; activations are no longer quantized, so that its outputs are those
    of the packed model only where the recipe left activations as they are. For runtimes that know
    no FP4, and for what takes float weights: :func:`fp4jax.models.to_torch`, more training.

    Args:
        model: what :func:`fp4jax.nnx.pack` returned; it is not changed.

    Returns:
        A new model without a recipe, in evaluation mode. Kernels have the dtype that they had.

    Raises:
        ValueError: a model that is not packed.

    Example:
        >>> import fp4jax
        >>> from fp4jax.nnx import apply_recipe, pack
        >>> layer = nnx.Linear(32, 8, rngs=nnx.Rngs(0))
        >>> grid = fp4jax.fake_quantize(layer.kernel[...], fp4jax.TensorSpec(), axis=0)
        >>> again = unpack(pack(apply_recipe(layer, "full")))
        >>> bool((again.kernel[...] == grid).all())
        True
    """
    if not is_packed(model):
        raise ValueError(
            f"{type(model).__name__} is not packed; unpack what fp4jax.nnx.pack(model) returns."
        )
    check_codes(model)
    model = nnx.clone(model)
    for layer in layers(model):
        operation, module = layer.operation, layer.module
        if not isinstance(operation, PackedOp):
            continue
        kernel, layout = module.kernel, Layout.of(module, layer.slot.name)
        spec = operation.recipe.fprop[1]
        assert spec is not None
        stored = StoredMatrix.of(layout, kernel, spec)
        # (..., k, n), in the kernel's own basis
        matrix = kernel.values.dequantize().swapaxes(-1, -2)
        # An involution: its own inverse.
        values = stored.kernel(matrix, layout.inputs_first(kernel.shape))
        module.kernel = nnx.data(nnx.Param(jnp.asarray(values, kernel.dtype)))
        module.promote_dtype = module.promote_dtype.inner
        layer.empty()
    remove_recipe(model)
    model.eval()
    return model
