"""What a page says of the inside of the networks."""

from fp4jax.analysis.claims.markdown import loose, table
from fp4jax.analysis.claims.source import Source
from fp4jax.analysis.figures.style import ordered_labels, shown, title

_MISSING = "Not measured yet."


def networks(source: Source) -> str:
    """Gradient noise and attention, layers averaged; the CSV file has each layer."""
    own = loose(source.study.inside)
    if own.empty:
        return _MISSING
    total = own[(own["of"] != "gradient") | (own["layer"] == "total")]
    keys = ["arch", "scale", "state", "recipe", "of", "quantity"]
    rows = []
    for names, group in total.groupby(keys, sort=False):
        arch, scale, state, recipe, of, quantity = names
        spread = f"{group['mean'].min():.3g} to {group['mean'].max():.3g}"
        line = [title(arch, scale), state, f"`{shown(recipe)}`", f"{of}: {quantity}"]
        line += [str(group["runs"].max()), f"{group['mean'].mean():.3g}"]
        rows.append([*line, spread if len(group) > 1 else ""])
    return table(["model", "weights", "recipe", "quantity", "runs", "mean", "layers"], rows)


def layers(source: Source) -> str:
    """Noise of the CNN's gradients by layer, in the order of the forward pass."""
    own = loose(source.study.inside)
    own = own[(own["arch"] == "cnn") & (own["of"] == "gradient") & (own["layer"] != "total")]
    own = own[own["quantity"] == "noise_to_signal"]
    if own.empty:
        return _MISSING
    recipes = ordered_labels(own["recipe"])
    rows = []
    for (scale, state, layer), group in own.groupby(["scale", "state", "layer"], sort=False):
        by = group.groupby("recipe")["mean"].mean()
        cells = [f"{by[recipe]:.3g}" if recipe in by else "" for recipe in recipes]
        rows.append([title("cnn", scale), state, f"`{layer}`", *cells])
    return table(["model", "weights", "layer", *(f"`{shown(r)}`" for r in recipes)], rows)
