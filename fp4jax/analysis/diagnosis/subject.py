"""What is diagnosed: one model under any recipe, as a function of its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.core.typing import Array
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.train.config import RunConfig
from fp4jax.train.program import build, fitted, program_of, split


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and a loss.

    Attributes:
        build: a new model with a recipe applied; called abstractly, its values do not matter.
        loss: of a model and a batch, a scalar.
    """

    build: Callable[[Recipe], nnx.Module]
    loss: Callable[[Any, Any], Array]

    def structure(self, recipe: str | int | Recipe) -> Callable[..., Any]:
        """``bind(params, stats, key=None, step=0)`` -> the model under ``recipe``.

        Batch norm is in training mode, dropout off; ``key`` and ``step`` are those of rounding.
        """
        recipe = get_recipe(recipe)
        model = nnx.eval_shape(lambda: self.build(recipe))
        model.eval()
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.BatchNorm):
                module.use_running_average = False
        graph, like, like_stats, rest = split(model)

        def bind(params: Any, stats: Any, key: Any = 0, step: Any = 0) -> Any:
            # Those of a run may be of another recipe.
            params, stats = fitted(like, params), fitted(like_stats, stats)
            bound = nnx.merge(graph, params, stats, rest, copy=True)
            return fp4nnx.refresh_keys(bound, key, step)

        return bind

    def layers(self, recipe: str | int | Recipe) -> tuple[str, ...]:
        """Paths of the layers that the recipe quantizes, as in ``fp4jax.nnx.report``."""
        recipe = get_recipe(recipe)
        report = fp4nnx.report(nnx.eval_shape(lambda: self.build(recipe)))
        return tuple(layer.path for layer in report.quantized)


def of_run(config: RunConfig, channels: int, regions: int = 1) -> Subject:
    """The subject of a run; a batch is (images, targets) as the run's data store them.

    The loss is the run's on the targets; a distilled run's teacher plays no part.
    """
    # The methods qad and ptq want a recipe that quantizes.
    plain, task = config.resolved().teacher(), config.data
    loss = program_of(plain, channels, regions).loss

    def build_with(recipe: Recipe) -> nnx.Module:
        return build(dataclasses.replace(plain, recipe=recipe), channels, regions, 0)

    def loss_of(model: Any, batch: tuple[Array, Array]) -> Array:
        images, targets = batch
        return loss(model(task.inputs(images)), task.targets(targets, plain))

    return Subject(build_with, loss_of)
