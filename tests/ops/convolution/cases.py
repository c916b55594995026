"""Convolutions as their tests call them: by fp4jax, by lax, and by the oracle."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fp4jax as fp4
from fp4jax.core import rounding
from fp4jax.ops.recipe import ROLES
from tests.checks import Results, three_gemms
from tests.oracle import conv as oracle
from tests.samples import on_grid, sample

KEY = jax.random.key(3)
BASELINE = fp4.get_recipe("baseline")


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution, channels last; explicit padding."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @property
    def ndim(self) -> int:
        return len(self.strides)

    def __call__(self, x, w, recipe, **options):
        """y, by fp4jax; by lax if the recipe is None."""
        if recipe is not None:
            options |= {"recipe": recipe, "key": KEY}
        return self._function(recipe)(x, w, self.strides, self.padding, **self._options, **options)

    def _function(self, recipe):
        module = lax if recipe is None else fp4
        return module.conv_transpose if self.transposed else module.conv_general_dilated

    @property
    def _options(self) -> dict[str, Any]:
        options = {"rhs_dilation": self.dilation, "dimension_numbers": channels_last(self.ndim)}
        return options if self.transposed else {**options, "feature_group_count": self.groups}

    def oracle(self, x, w, g, recipe) -> dict:
        bits = oracle_bits(recipe, self.transposed)
        arguments = (x, w, g, self.strides, self.padding)
        if self.transposed:
            return oracle.conv_transpose(*arguments, self.dilation, recipe, bits)
        no_dilation = (1,) * self.ndim
        return oracle.conv(*arguments, no_dilation, self.dilation, self.groups, recipe, bits)

    def data(self, dtype=np.float32) -> tuple[Any, Any, Any]:
        """x, w and g. Rotations are exact on them."""
        x, w = (on_grid(sample("normal", s, i)) for i, s in enumerate((self.x, self.w)))
        g = on_grid(sample("normal", jax.eval_shape(lambda: self(x, w, None)).shape, 2))
        return tuple(np.asarray(jnp.asarray(a, dtype)) for a in (x, w, g))


def channels_last(ndim: int) -> tuple[str, str, str]:
    space = "DHW"[-ndim:]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def oracle_bits(recipe, transposed: bool):
    """The bits that fp4jax draws, as the oracle asks for them: (role, shape) -> bits.

    In wgrad the patches' bits come from one key per tap, in the window's order of taps.
    """
    specs = dict(zip(ROLES, recipe.operands, strict=True))
    patches = "wgrad.g" if transposed else "wgrad.x"

    def bits(role: str, shape: tuple[int, ...]) -> np.ndarray:
        key, width = jax.random.fold_in(KEY, ROLES.index(role)), specs[role].random_bits
        if role != patches:
            return np.asarray(rounding.random_bits(key, shape, width))
        positions, taps, *channels = shape
        keys = [jax.random.fold_in(key, t) for t in range(taps)]
        per_tap = [rounding.random_bits(k, (positions, *channels), width) for k in keys]
        return np.stack(per_tap[::-1] if transposed else per_tap, axis=1)

    return bits


CASES = {
    "2d": Case((2, 7, 6, 20), (3, 3, 20, 9), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "2d_stride_2": Case((2, 8, 9, 18), (4, 4, 18, 20), (2, 2), ((1, 1), (1, 2)), (1, 1)),
    "2d_transposed": Case(
        (2, 5, 6, 20), (4, 4, 20, 9), (2, 2), ((2, 2), (2, 2)), (1, 1), transposed=True
    ),
    "3d": Case((1, 5, 4, 6, 17), (2, 3, 2, 17, 5), (1, 2, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 2)),
    "1d_groups": Case((2, 23, 38), (3, 19, 42), (2,), ((1, 2),), (2,), groups=2),
    "3d_transposed": Case(
        (1, 3, 4, 3, 17),
        (2, 2, 3, 17, 5),
        (2, 1, 2),
        ((1, 1), (0, 1), (2, 1)),
        (1, 2, 1),
        transposed=True,
    ),
}


def run(case: Case, recipe, x, w, g) -> Results:
    return jax.jit(three_gemms(lambda x, w: case(x, w, recipe)))(x, w, g)
