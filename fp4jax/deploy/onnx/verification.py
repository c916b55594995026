"""A file compared with the packed model, as a whole and part by part.

A last bit that two runtimes add in another order may round an activation of a later layer to the
next code, which no bound of rounding errors covers. So the parts are compared, too: each packed
layer is given the file's own input, and what lies between layers the file's own outputs of them.
Then no difference passes from one part to the next, and each must agree up to rounding. Parts in
16 bits are compared with the same products in 16 bits, where a last bit before the rounding may
make a step of one after it: what counts is the difference beyond.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.typing import Float
from fp4jax.deploy.onnx.half import half_product, step
from fp4jax.deploy.onnx.marked_model import mark
from fp4jax.deploy.onnx.marking import in_place_of_layers
from fp4jax.deploy.onnx.model import Written
from fp4jax.deploy.onnx.running import Run


@dataclasses.dataclass(frozen=True)
class Difference:
    """Largest differences of a file from the packed model, over the largest magnitude.

    Attributes:
        logits: of the results, from those of a model that computes what the file says.
        packed: of the results, from those of the packed model; the same, but for products in 16
            bits.
        parts: of each part alone: "x of PATH" up to a packed layer, "PATH" of the layer, "logits"
            after the last.
    """

    logits: float
    packed: float
    parts: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The part that differs most."""
        name = max(self.parts, key=self.parts.__getitem__)
        return name, self.parts[name]


def compare(
    written: Written, model: nnx.Module, images: Float[np.ndarray, "b ..."], run: Run
) -> Difference:
    """The differences on some images.

    Args:
        written: the file.
        model: that it was written from.
        images: (batch, *space, channels), as the model takes them.
        run: who runs the file.
    """
    last = images.ndim - 1
    fed = images.transpose(0, last, *range(1, last)) if written.channels_first else images
    names = [name for call in written.calls for name in (call.x, call.y)]
    # A layer's input may be another one's.
    unique = list(dict.fromkeys(["logits", *names]))
    found = dict(zip(unique, run(written.model, fed, unique), strict=True))
    logits = found["logits"]
    if written.channels_first:
        logits = logits.transpose(0, *range(2, logits.ndim), 1)
    alone, by_parts = _programs(model, written)
    half = [call.form == "half" for call in written.calls]
    parts: dict[str, float] = {}
    largest = packed = 0.0
    for i, image in enumerate(images):
        xs, ys = ([found[getattr(c, kind)][i] for c in written.calls] for kind in ("x", "y"))
        whole = _difference(logits[i], alone(image))
        packed = max(packed, whole)
        if any(half):
            whole = _difference(logits[i], by_parts(image, None, None)[0])
        largest = max(largest, whole)
        own_logits, own_xs, own_ys = by_parts(image, xs, ys)
        rows = [("logits", logits[i], own_logits, False)]
        for n, call in enumerate(written.calls):
            label = call.path or "the layer"
            rows.append((f"x of {label}", xs[n], own_xs[n], False))
            rows.append((label, ys[n], own_ys[n], half[n]))
        for label, theirs, ours, rounded in rows:
            difference = _difference(theirs, ours, written.half if rounded else None)
            parts[label] = max(parts.get(label, 0.0), difference)
    return Difference(largest, packed, parts)


def _programs(model: nnx.Module, written: Written) -> tuple[Any, Any]:
    """image -> logits of the packed model; (image, xs, ys) -> logits, xs and ys of its parts.

    The latter computes what the file says. With None for xs and ys parts take what the ones before
    them give.
    """
    plain, plain_state = nnx.split(model)
    marked, marked_state = nnx.split(mark(model, plain=False))

    @jax.jit
    def alone(state: Any, image: Any) -> Any:
        call: Any = nnx.merge(plain, state)
        return call(image[None])[0]

    @jax.jit
    def by_parts(state: Any, image: Any, xs: Any, ys: Any) -> Any:
        own_xs, own_ys = [], []

        def layer(path: str, product: Any, x: Any, *operands: Any) -> Any:
            n = len(own_xs)
            own_xs.append(x)
            given = x if xs is None else xs[n].reshape(x.shape)
            call = written.calls[n]
            assert call.path == path
            if call.form == "half":
                y = half_product(product, given, operands[0], written.half)
            else:
                y = product(given, *operands)
            own_ys.append(y)
            return y if ys is None else ys[n].reshape(y.shape)

        with in_place_of_layers(layer):
            call: Any = nnx.merge(marked, state)
            return call(image[None])[0], own_xs, own_ys

    return (
        lambda image: alone(plain_state, jnp.asarray(image)),
        lambda image, xs, ys: by_parts(marked_state, jnp.asarray(image), xs, ys),
    )


def _difference(theirs: Any, ours: Any, half: str | None = None) -> float:
    """Largest difference over the largest magnitude; infinite where only one is finite.

    Of numbers that were rounded to 16 bits, beyond a step of these.
    """
    theirs, ours = (np.asarray(a, np.float32).ravel() for a in (theirs, ours))
    if not (np.isfinite(theirs) == np.isfinite(ours)).all():
        return np.inf
    finite = np.isfinite(ours)
    if not finite.any():
        return 0.0
    theirs, ours = theirs[finite], ours[finite]
    difference = np.abs(theirs - ours)
    if half is not None:
        difference = np.maximum(difference - step(ours, half), 0)
    return float(difference.max() / (np.abs(ours).max() or 1))
