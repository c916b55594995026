"""What a page says of the inside of the networks."""

from fp4jax.analysis.claims.collected import labels
from fp4jax.analysis.claims.inside import over_runs
from fp4jax.analysis.claims.markdown import loose, table
from fp4jax.analysis.claims.source import Source
from fp4jax.analysis.figures.style import ordered_labels, shown, title
from fp4jax.analysis.stats.rows import BASELINE

_MISSING = "Not measured yet."
_WEIGHTS = ["arch", "scale", "recipe", "method", "state"]


def networks(source: Source) -> str:
    """Gradient noise and attention, layers averaged; the CSV file has each layer."""
    own = loose(over_runs(source.study.inside))
    if own.empty:
        return _MISSING
    total = own[(own["of"] != "gradient") | (own["layer"] == "total")]
    keys = [*_WEIGHTS, "measured", "of", "quantity"]
    rows = []
    for names, group in total.groupby(keys, sort=False):
        *weights, measured, of, quantity = names
        spread = f"{group['mean'].min():.3g} to {group['mean'].max():.3g}"
        line = [*_weights(*weights), f"`{shown(measured)}`", f"{of}: {quantity}"]
        line += [str(group["runs"].max()), f"{group['mean'].mean():.3g}"]
        rows.append([*line, spread if len(group) > 1 else ""])
    return table(["model", "weights", "recipe", "quantity", "runs", "mean", "layers"], rows)


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
