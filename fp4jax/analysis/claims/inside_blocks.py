"""What a page says of the inside of the networks."""

from typing import Any

from fp4jax.analysis.claims.collected import labels
from fp4jax.analysis.claims.inside import over_runs
from fp4jax.analysis.claims.markdown import loose, table
from fp4jax.analysis.claims.source import Source
from fp4jax.analysis.figures.style import ordered_labels, shown, title
from fp4jax.analysis.stats.rows import BASELINE

_MISSING = "Not measured yet."
# Quantity -> heading.
_GRADIENT = {
    "noise_to_signal": "noise",
    "bias": "of which bias",
    "variance": "variance",
    "backward_noise_to_signal": "of the backward pass alone",
    "backward_bias": "of which bias",
    "backward_variance": "variance",
    "minibatch": "a minibatch's own",
}
_ATTENTION = {
    "attention entropy": "entropy",
    "attention levels": "levels",
    "attention shift": "shift",
    "probabilities entropy": "entropy of P",
    "probabilities levels": "levels of P",
    "probabilities zeros": "zeros",
    "probabilities mass": "mass",
    "probabilities shift": "shift of P",
}
_WEIGHTS = ["arch", "scale", "recipe", "method", "state"]


def gradients(source: Source) -> str:
    """Noise of the whole gradient, a row for each recipe."""
    own = loose(over_runs(source.study.inside))
    return _by_recipe(own[(own["of"] == "gradient") & (own["layer"] == "total")], _GRADIENT)


def attention(source: Source) -> str:
    """Attention and its quantized products, means over layers with their range."""
    own = loose(over_runs(source.study.inside))
    own = own[own["of"].isin(("attention", "probabilities"))]
    # Numbers of one kind, of logits and of P, stand side by side.
    return _by_recipe(own.assign(quantity=own["of"] + " " + own["quantity"]), _ATTENTION)


def _by_recipe(own: Any, columns: dict[str, str]) -> str:
    """A row per model and recipe, a column per quantity."""
    if own.empty:
        return _MISSING
    rows = []
    for (*weights, measured), group in own.groupby([*_WEIGHTS, "measured"], sort=False):
        of = {name: _over_layers(rows["mean"]) for name, rows in group.groupby("quantity")}
        line = [*_weights(*weights), str(group["runs"].max()), f"`{shown(measured)}`"]
        rows.append([*line, *(of.get(name, "") for name in columns)])
    return table(["model", "weights", "runs", "recipe", *columns.values()], rows)


def _over_layers(values: Any) -> str:
    text = f"{values.mean():.3g}"
    return f"{text} ({values.min():.3g} to {values.max():.3g})" if len(values) > 1 else text


def layers(source: Source) -> str:
    """Noise of the CNN's gradients by layer, in the order of the forward pass."""
    own = loose(over_runs(source.study.inside))
    own = own[(own["arch"] == "cnn") & (own["of"] == "gradient") & (own["layer"] != "total")]
    own = own[own["quantity"] == "noise_to_signal"]
    if own.empty:
        return _MISSING
    recipes = ordered_labels(own["measured"])
    rows = []
    for (*weights, layer), group in own.groupby([*_WEIGHTS, "layer"], sort=False):
        by = group.set_index("measured")["mean"]
        cells = [f"{by[recipe]:.3g}" if recipe in by else "" for recipe in recipes]
        rows.append([*_weights(*weights), f"`{layer}`", *cells])
    return table(["model", "weights", "layer", *(f"`{shown(r)}`" for r in recipes)], rows)


def _weights(arch: str, scale: str, recipe: str, method: str, state: str) -> list[str]:
    """A model, and which of its weights were diagnosed."""
    (label,) = labels([recipe], [method])
    return [title(arch, scale), state if label == BASELINE else f"{state}, of `{shown(label)}`"]
