"""A file compared with the packed model, as a whole and part by part.

A last bit that two runtimes add in another order may round an activation of a later layer to the
next code, which no bound of rounding errors covers. So the parts are compared, too: each packed
layer is given the file's own input, and what lies between layers the file's own outputs of them.
Then no difference passes from one part to the next, and each must agree up to rounding.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.typing import Float
from fp4jax.deploy.onnx.marking import in_place_of_layers, mark
from fp4jax.deploy.onnx.model import Written
from fp4jax.deploy.onnx.running import Run


@dataclasses.dataclass(frozen=True)
class Difference:
    """Largest differences of a file from the packed model, over the largest magnitude.

    Attributes:
        logits: of the results.
        parts: of each part alone: "x of PATH" up to a packed layer, "PATH" of the layer, "logits"
            after the last.
    """

    logits: float
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
    alone, by_parts = _programs(model)
    parts: dict[str, float] = {}
    largest = 0.0
    for i, image in enumerate(images):
        xs, ys = ([found[getattr(c, kind)][i] for c in written.calls] for kind in ("x", "y"))
        largest = max(largest, _difference(logits[i], alone(image)))
        own_logits, own_xs, own_ys = by_parts(image, xs, ys)
        rows = [("logits", logits[i], own_logits)]
        for n, call in enumerate(written.calls):
            label = call.path or "the layer"
            rows += [(f"x of {label}", xs[n], own_xs[n]), (label, ys[n], own_ys[n])]
        for label, theirs, ours in rows:
            parts[label] = max(parts.get(label, 0.0), _difference(theirs, ours))
    return Difference(largest, parts)


def _programs(model: nnx.Module) -> tuple[Any, Any]:
    """image -> logits of the packed model; (image, xs, ys) -> logits, xs and ys of its parts."""
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
            del path
            n = len(own_xs)
            own_xs.append(x)
            own_ys.append(product(xs[n].reshape(x.shape), *operands))
            return ys[n].reshape(own_ys[n].shape)

        with in_place_of_layers(layer):
            call: Any = nnx.merge(marked, state)
            return call(image[None])[0], own_xs, own_ys

    return (
        lambda image: alone(plain_state, jnp.asarray(image)),
        lambda image, xs, ys: by_parts(marked_state, jnp.asarray(image), xs, ys),
    )


def _difference(theirs: Any, ours: Any) -> float:
    """Largest difference over the largest magnitude; infinite where only one is finite."""
    theirs, ours = (np.asarray(a, np.float32).ravel() for a in (theirs, ours))
    if not (np.isfinite(theirs) == np.isfinite(ours)).all():
        return np.inf
    finite = np.isfinite(ours)
    if not finite.any():
        return 0.0
    largest = np.abs(ours[finite]).max()
    return float(np.abs(theirs - ours)[finite].max() / (largest or 1))
