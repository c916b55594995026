"""Flax Linen: quantized operations for Linen's slots, and layers with the slots that it lacks.

``dot_general_cls`` and ``conv_general_dilated_cls`` take a class, or what makes a module when it is
called without arguments: fill in the recipe by ``functools.partial``, as below, and give ``apply``
the RNG stream "rounding" in training. Evaluation needs none, unless the recipe rounds activations
or weights stochastically. :class:`Einsum` and :class:`ConvTranspose` are Linen's layers with slots
of the same kind; ``attention_fn`` of Linen's attention takes an :class:`Attention`.

Example:
    >>> import functools, jax, jax.numpy as jnp
    >>> from flax import linen
    >>> dot = functools.partial(DotGeneral, recipe="2d+rht+sr")
    >>> layer = linen.Dense(8, dot_general_cls=dot)
    >>> keys = {"params": jax.random.key(0), "rounding": jax.random.key(1)}
    >>> variables = layer.init(keys, jnp.ones((2, 16)))
    >>> layer.apply(variables, jnp.ones((2, 16)), rngs={"rounding": jax.random.key(2)}).shape
    (2, 8)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen.dtypes import promote_dtype
from flax.linen.linear import canonicalize_padding
from jax import lax

from fp4jax.core.seeds import AxisName
from fp4jax.core.typing import Array
from fp4jax.ops.attention_function import dot_product_attention
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.convolution.circular import wrapped
from fp4jax.ops.convolution.quantized import conv_general_dilated, conv_transpose
from fp4jax.ops.dot import dot_general
from fp4jax.ops.einsum import einsum
from fp4jax.ops.recipe import Recipe, get_recipe


@jax.custom_jvp
def _no_gradient(y: Array) -> Array:
    """y as it is, computed without a key: its gradients would have no bits to round with."""
    return y


@_no_gradient.defjvp
def _refuse(*_):
    raise ValueError(
        "this recipe rounds gradients stochastically, but there is no RNG stream 'rounding'; pass "
        "rngs={'rounding': key} to apply, another key for every step."
    )


def _rounding(module: linen.Module, recipe: Any) -> tuple[Array | None, Callable[[Array], Array]]:
    """The key of a call, and what its result goes through.

    A forward pass alone, as in evaluation, needs no bits where only gradients are stochastic.
    """
    if not recipe.stochastic:
        return None, lambda y: y
    # Without a stream of its own Flax draws from that of the parameters, as in init.
    if recipe.stochastic_forward or module.has_rng("rounding") or module.has_rng("params"):
        return module.make_rng("rounding"), lambda y: y
    return jax.random.key(0), _no_gradient


class _Op(linen.Module):
    """An operation under a recipe, with a key of the RNG stream "rounding" if it is stochastic.

    ``amax`` and ``axis_name`` are those of :func:`fp4jax.dot_general`.
    """

    recipe: str | int | Recipe
    amax: Mapping[str, Any] | None = None
    axis_name: AxisName = None

    def _call(self, operation: Callable[..., Array], *args, **kwargs) -> Array:
        recipe = get_recipe(self.recipe)
        key, checked = _rounding(self, recipe)
        options = {"recipe": recipe, "key": key, "amax": self.amax, "axis_name": self.axis_name}
        return checked(operation(*args, **kwargs, **options))


class DotGeneral(_Op):
    """``fp4jax.dot_general`` as a Linen module."""

    def __call__(self, *args, **kwargs) -> Array:
        return self._call(dot_general, *args, **kwargs)


class ConvGeneralDilated(_Op):
    """``fp4jax.conv_general_dilated`` as a Linen module."""

    def __call__(self, *args, **kwargs) -> Array:
        return self._call(conv_general_dilated, *args, **kwargs)


class ConvTransposeOp(_Op):
    """``fp4jax.conv_transpose`` as a Linen module, for :class:`ConvTranspose`."""

    def __call__(self, *args, **kwargs) -> Array:
        return self._call(conv_transpose, *args, **kwargs)


class EinsumOp(_Op):
    """``fp4jax.einsum`` as a Linen module, for :class:`Einsum`."""

    def __call__(self, *args, **kwargs) -> Array:
        return self._call(einsum, *args, **kwargs)


class Attention(linen.Module):
    """``fp4jax.attention`` for the ``attention_fn`` of ``linen.MultiHeadDotProductAttention``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> attend = Attention(recipe="attention_qat")
        >>> layer = linen.MultiHeadDotProductAttention(num_heads=2, attention_fn=attend)
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 3, 8)))
        >>> y.shape, sorted(variables["params"])
        ((1, 3, 8), ['key', 'out', 'query', 'value'])
    """

    recipe: str | AttentionRecipe
    amax: Mapping[str, Any] | None = None
    axis_name: AxisName = None

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        bias: Array | None = None,
        mask: Array | None = None,
        broadcast_dropout: bool = True,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
    ) -> Array:
        recipe = get_attention_recipe(self.recipe)
        rounding, checked = _rounding(self, recipe)
        options: dict[str, Any] = {"recipe": recipe, "key": rounding}
        y = dot_product_attention(
            query,
            key,
            value,
            bias,
            mask,
            broadcast_dropout,
            dropout_rng,
            dropout_rate,
            deterministic,
            dtype,
            precision,
            module,
            options=options | {"amax": self.amax, "axis_name": self.axis_name},
        )
        return checked(y)


class Einsum(linen.Einsum):
    """``linen.Einsum`` whose product is in a slot, ``einsum_cls``; same parameters, same result.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> op = functools.partial(EinsumOp, recipe="full")
        >>> layer = Einsum((16, 2, 8), "bi,ihd->bhd", einsum_cls=op)
        >>> layer.init_with_output(jax.random.key(0), jnp.ones((3, 16)))[0].shape
        (3, 2, 8)
    """

    promote_dtype: Any = promote_dtype  # Flax's annotation cannot be checked
    einsum_cls: Callable[[], Callable[..., Array]] | None = None

    @linen.compact
    def __call__(self, inputs: Array, einsum_str: str | None = None) -> Array:
        form = linen.merge_param("einsum_str", self.einsum_str, einsum_str).replace(" ", "")
        if "->" not in form or form.count(",") != 1:
            raise ValueError(f"einsum_str is {form!r}; it needs two operands, and '->'.")
        kernel = self.param("kernel", self.kernel_init, self.shape, self.param_dtype)
        left, _, out = form.partition("->")
        bias = None
        if self.use_bias:
            sizes = dict(zip(left.split(",")[1], self.shape, strict=True))
            own = [sizes[letter] for letter in out if letter in sizes]
            bias = self.param("bias", self.bias_init, own, self.param_dtype)
        x, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        function: Any = jnp.einsum if self.einsum_cls is None else self.einsum_cls()
        preferred = self.preferred_element_type
        y = function(form, x, kernel, precision=self.precision, preferred_element_type=preferred)
        if bias is None:
            return y
        ellipsis = y.ndim - len(out.replace("...", ""))
        letters = out.replace("...", "." * ellipsis)
        return y + bias.reshape(
            [n if c in sizes else 1 for c, n in zip(letters, y.shape, strict=True)]
        )


class ConvTranspose(linen.ConvTranspose):
    """``linen.ConvTranspose`` whose convolution is in a slot, ``conv_transpose_cls``.

    Same parameters, same result.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> op = functools.partial(ConvTransposeOp, recipe="full")
        >>> layer = ConvTranspose(8, (2, 2), (2, 2), conv_transpose_cls=op)
        >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 3, 4, 16)))[0].shape
        (1, 6, 8, 8)
    """

    promote_dtype: Any = promote_dtype
    conv_transpose_cls: Callable[[], Callable[..., Array]] | None = None

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        size = (self.kernel_size,) if isinstance(self.kernel_size, int) else (*self.kernel_size,)
        space = len(size)
        strides, dilation = (
            (n or 1,) * space if n is None or isinstance(n, int) else tuple(n)
            for n in (self.strides, self.kernel_dilation)
        )
        batch = inputs.shape[: inputs.ndim - space - 1]
        x = inputs.reshape(math.prod(batch), *inputs.shape[inputs.ndim - space - 1 :])
        ends = (self.features, x.shape[-1])
        shape = (*size, *(ends if self.transpose_kernel else ends[::-1]))
        if self.mask is not None and self.mask.shape != shape:
            raise ValueError(f"mask has shape {self.mask.shape}, the kernel has {shape}.")
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        kernel = kernel if self.mask is None else kernel * self.mask
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = canonicalize_padding(self.padding, space)
        circular = padding == "CIRCULAR"
        operation: Any = self.conv_transpose_cls
        function: Any = lax.conv_transpose if operation is None else operation()
        y = function(
            x,
            kernel,
            strides,
            "VALID" if circular else padding,
            rhs_dilation=dilation,
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        if circular:
            y = wrapped(y, x.shape, strides, self.transpose_kernel)
        if bias is not None:
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y.reshape(*batch, *y.shape[1:])
