"""sensitivity(model, batches, recipe): each layer, and each of its operands, quantized alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.nnx.applying import apply_recipe, remove_recipe
from fp4jax.nnx.attention_slots import attention_slots
from fp4jax.nnx.keys import check_model
from fp4jax.nnx.sensitivities.checks import (
    Batch,
    batch_of,
    check,
    check_pass,
    is_forward,
    operands_of,
)
from fp4jax.nnx.sensitivities.measures import compiled_distances, relative_error
from fp4jax.nnx.sensitivities.program import WIDTH, Pass, Program
from fp4jax.nnx.sensitivities.table import ALL, EVERYTHING, SensitivityRow, SensitivityTable
from fp4jax.nnx.slots import layers
from fp4jax.nnx.traced import products_of
from fp4jax.ops.attention_given import ATTENTION_ROLES
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.recipe import ROLES, Recipe, get_recipe

#: Of the outputs and targets of all batches; larger is better.
Score = Callable[[np.ndarray, np.ndarray], float]


def sensitivity(
    model: nnx.Module,
    batches: Iterable[Any],
    recipe: str | int | Recipe,
    metric: str | Score = "kl",
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    activation: str = "sigmoid",
    keep: str | Sequence[str] = (),
    attention: str | AttentionRecipe | Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SensitivityTable:
    """What it costs to quantize each layer of a model, and each of its operands, alone.

    Every layer is compared with the float model on the same batches, while all others stay in high
    precision. One compiled program serves all of them: which operands are quantized is its
    argument. A layer costs two passes for its row and one for each operand, of every batch.

    A pass without a ``loss`` is the forward pass, which tells of x and w in fprop. With one it is a
    training step without its update, which tells of all operands that the recipe quantizes: those
    of the backward pass leave outputs and loss as they are, and change the gradient.

    Args:
        model: any NNX model; left as it is. Recipes that it holds play no part. It is run in the
            mode that it is in: ``model.eval()`` for what quantization costs a trained model.
        batches: pairs (inputs, targets), or inputs alone; inputs are an array or, for a model that
            takes several, a tuple of arrays. Batches of one shape share a compilation. amax spans
            the batch, as the recipe says.
        recipe: a Recipe, its name, or the paper's id.
        metric: what :func:`fp4jax.nnx.keep_list` weighs by. "kl": divergence of the outputs'
            probabilities. "loss": its change. "gradient": relative error of the gradient of all
            parameters. Or a score, a function (outputs, targets) -> float of NumPy arrays that hold
            all batches, larger is better, such as an AUPRC: how much it falls. All that can be
            measured is in the table, whichever is chosen.
        loss: of (outputs, targets), a scalar.
        activation: what makes probabilities of outputs (..., k): "sigmoid" of each, "softmax" of
            all k.
        keep: patterns of layers that stay in high precision whatever they cost, as for
            :func:`fp4jax.nnx.apply_recipe`.
        attention: an AttentionRecipe, or its name: every attention is a candidate too, with a row
            "PATH.attention", and one for each operand of its two products that the recipe
            quantizes, "qk.fprop.x" (q) to "pv.wgrad.g". None: its products stay in high precision.
        progress: is told how many passes are done, and of how many.

    Returns:
        The table; print it, ``write`` it, or hand it to :func:`fp4jax.nnx.keep_list`.

    Raises:
        ValueError: no batches; outputs, loss or score of the float model that are not finite; a
            model without layers that the recipe can quantize, or a packed one; a recipe that
            quantizes nothing; an unknown metric, or one that wants a loss or targets.

    Example:
        >>> from fp4jax.nnx import keep_list
        >>> rngs = nnx.Rngs(0)
        >>> first, second = nnx.Linear(32, 64, rngs=rngs), nnx.Linear(64, 1, rngs=rngs)
        >>> model = nnx.Sequential(first, nnx.relu, second)
        >>> x = jax.random.normal(jax.random.key(0), (8, 32))
        >>> table = sensitivity(model, [x], "forward_only")
        >>> [(row.layer, row.operand, row.kl > 0) for row in table.rows[:3]]
        [('layers.0', 'all', True), ('layers.0', 'fprop.x', True), ('layers.0', 'fprop.w', True)]
        >>> keep_list(table, budget=0.9)  # layers.2 has 3 % of the multiply-adds
        ('layers\\\\.2$',)
    """
    recipe = get_recipe(recipe)
    attends = None if attention is None else get_attention_recipe(attention)
    given = [batch_of(batch) for batch in batches]
    score = metric if callable(metric) else None
    check(recipe, attends, given, metric, loss)
    copy = _quantized(model, recipe, keep, attends)
    products = products_of(copy, given[0].inputs)
    slots = [slot for slot in attention_slots(copy) if slot.operation is not None]
    # The products of an attention are those of its module.
    names = {slot.module_path: slot.path for slot in slots}
    amounts: dict[str, int] = {}
    for product in products:
        if product.recipe:
            path = names.get(product.path, product.path)
            amounts[path] = amounts.get(path, 0) + product.multiply_adds
    if not amounts:
        raise ValueError(
            f"no layer of {type(model).__name__} runs its product under {recipe.name!r}; "
            "fp4jax.nnx.report(model, x) shows which layers there are."
        )
    paths = tuple(amounts)
    measured = _Measured(Program(copy, paths, loss), len(paths), given, activation, score)
    candidates = (*layers(copy), *(attention_slots(copy) if attends is not None else ()))
    kept = [part.path or "(model)" for part in candidates if part.path not in amounts]

    def roles(path: str) -> tuple[str, ...]:
        return ATTENTION_ROLES if path in names.values() else ROLES

    def told(path: str) -> list[str]:
        one = attends if attends is not None and path in names.values() else recipe
        return [role for role in operands_of(one) if loss is not None or is_forward(role)]

    wanted = [(path, operand) for path in paths for operand in (ALL, *told(path))]
    rows = []
    for done, (path, operand) in enumerate([*wanted, (EVERYTHING, ALL)]):
        on = np.zeros((len(paths), WIDTH), bool)
        layer = slice(None) if path == EVERYTHING else paths.index(path)
        on[layer, slice(None) if operand == ALL else roles(path).index(operand)] = True
        amount = sum(amounts.values()) if path == EVERYTHING else amounts[path]
        rows.append(SensitivityRow(path or "(model)", operand, amount, **measured.of(on)))
        if progress is not None:
            progress(done + 1, len(wanted) + 1)
    return SensitivityTable(
        rows=tuple(rows[:-1]),
        together=rows[-1],
        recipe=recipe,
        metric="score" if score is not None else str(metric),
        reference=measured.reference,
        multiply_adds=sum(product.multiply_adds for product in products),
        kept=tuple(kept),
        attention=attends,
    )


class _Measured:
    """The program's distances to its own pass in high precision, on all batches."""

    def __init__(
        self,
        program: Program,
        layers: int,
        batches: Sequence[Batch],
        activation: str,
        score: Score | None,
    ):
        self._program, self._batches = program, batches
        self._activation, self._score = activation, score
        self._targets = [batch.targets for batch in batches]
        self._exact = self._passes(np.zeros((layers, WIDTH), bool))
        for i, one in enumerate(self._exact):
            check_pass(one, i)
        self.reference: dict[str, float] = {}
        if self._exact[0].loss is not None:
            self.reference["loss"] = float(np.mean([np.asarray(p.loss) for p in self._exact]))
        if score is not None:
            self.reference["score"] = self._scored(self._exact)

    def of(self, on: np.ndarray) -> dict[str, float]:
        """What a choice of operands costs, by name."""
        passes = self._passes(on)
        found = jax.device_get(
            [
                compiled_distances(a, b, self._activation)
                for a, b in zip(self._exact, passes, strict=True)
            ]
        )
        values = {
            name: float(np.mean([batch[name] for batch in found], dtype=np.float64))
            for name in found[0]
            if name != "gradient"
        }
        if "gradient" in found[0]:
            error, cosine = relative_error([batch["gradient"] for batch in found])
            values |= {"gradient": error, "cosine": cosine}
        if self._score is not None:
            # A layer has the first half of the roles, an attention all.
            forward = on[:, [is_forward(role) for role in ATTENTION_ROLES]].any()
            values["score"] = self.reference["score"] - self._scored(passes) if forward else 0.0
        return values

    def _passes(self, on: np.ndarray) -> list[Pass]:
        return [
            self._program(jnp.asarray(on), batch.inputs, batch.targets, i)
            for i, batch in enumerate(self._batches)
        ]

    def _scored(self, passes: Sequence[Pass]) -> float:
        assert self._score is not None
        outputs = np.concatenate([np.asarray(p.outputs) for p in passes])
        value = float(self._score(outputs, np.concatenate(list(map(np.asarray, self._targets)))))
        if not np.isfinite(value):
            raise ValueError(f"the score of the batches is {value}; give batches that have one.")
        return value


def _quantized(
    model: nnx.Module, recipe: Recipe, keep: str | Sequence[str], attention: AttentionRecipe | None
) -> nnx.Module:
    """A copy of the model, whose arrays are the same, with the recipes alone."""
    check_model(model)
    copy = nnx.merge(*nnx.split(model))
    remove_recipe(copy)
    return apply_recipe(copy, recipe, keep, attention=attention)
