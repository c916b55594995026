"""The compiled steps of a run: ``train_step(state, batch) -> (state, metrics)`` and evaluation.

One :class:`Program` serves all seeds and folds of a configuration, because the seed lies in the
state. On accelerators the steps of an epoch are one ``lax.scan`` over a cohort that stays on the
device, and several seeds are lanes of a ``vmap``. On CPU the host calls one jitted, donated step:
XLA's weight gradients are many times slower inside a loop there, and batched kernels too. So it
does for a cohort that the accelerator has no room for.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fp4jax import losses, metrics, models, nnx as fp4nnx
from fp4jax.core.typing import Array
from fp4jax.data import augment
from fp4jax.train import optimizer as optimizers
from fp4jax.train.config import RunConfig
from fp4jax.train.state import Batch, Teacher, TrainState

# Streams of keys from a run's seed; the numbers of the epochs are those of the augmentation.
_DROPOUT, _ROUNDING = 2**32 - 1, 2**32 - 2


def build(config: RunConfig, channels: int, seed: int | Array) -> nnx.Module:
    """The model of a run with its recipe applied, in training mode, freshly initialised."""
    options: dict[str, Any] = dict(config.model_options)
    model: Any = models.create(
        config.arch,
        config.scale,
        in_channels=channels,
        image_size=config.image_size,
        rngs=nnx.Rngs(jax.random.key(seed)),
        dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        **options,
    )
    keep = model.high_precision if config.keep is None else config.keep
    model = fp4nnx.apply_recipe(model, config.recipe, keep=keep, verbose=False)
    model.train()
    return model


class Program:
    """The steps of ``config`` for images with ``channels`` channels.

    Args:
        config: its seed plays no part.
        channels: of the images.
        steps: of the whole training, for schedules that know their end.
        lanes: None for one run; a number of runs that go side by side (``vmap``), whose states and
            batch indices have a leading axis.

    Example:
        >>> small = {"stages": 2, "channels": 16}
        >>> config = RunConfig(arch="cnn", image_size=32, batch_size=2, model_options=small)
        >>> program = Program(config, channels=3, steps=10)
        >>> state = program.init(jnp.uint32(2026))
        >>> image = jnp.zeros((2, 32, 32, 3), jnp.uint8)
        >>> batch = Batch(image, image[..., 0], jnp.arange(2), jnp.int32(1))
        >>> state, values = program.step(state, batch)  # the old state is donated
        >>> int(state.step), sorted(values)
        (1, ['bce', 'dice', 'grad_norm', 'learning_rate', 'loss', 'tversky'])
    """

    def __init__(self, config: RunConfig, channels: int, steps: int, lanes: int | None = None):
        self.config = config = config.resolved()
        self.channels = channels
        self.lanes = lanes
        self.loss = losses.get_loss(config.loss)
        self.distillation = losses.Distillation(
            task=self.loss,
            temperature=config.temperature,
            ref=config.divergence == "cross_entropy_ref",
        )
        constants: Any = config
        self.optimizer = optimizers.optimizer(
            constants.optimizer, constants.weight_decay, clip=config.clip
        )
        self.rate = optimizers.schedule(config.schedule, constants.learning_rate, steps)
        # Abstract: parameters come from init, rounding keys are refilled in every step.
        model = nnx.eval_shape(lambda: build(config, channels, 0))
        self._train_graph, *_, self._rest = _split(model)
        model.eval()
        self._eval_graph, *_ = _split(model)
        if config.method == "qad":
            teacher = nnx.eval_shape(lambda: build(config.teacher(), channels, 0))
            teacher.eval()
            self._teacher_graph, *_, self._teacher_rest = _split(teacher)

        def lanewise(function: Callable, axes: tuple, donate: tuple[int, ...] = ()) -> Callable:
            if lanes is None:
                return jax.jit(function, donate_argnums=donate)
            mapped = jax.vmap(function, in_axes=axes)

            def of_lanes(*args):  # vmap does not know of the default, no teacher
                return mapped(*args, *[None] * (len(axes) - len(args)))

            return jax.jit(of_lanes, donate_argnums=donate)

        batches = Batch(images=0, masks=0, index=0, epoch=None)
        # Not compiled as a whole: its parts serve all layers and programs of a shape.
        self.init = self.start if lanes is None else jax.vmap(self.start)
        self.step = lanewise(self.train_step, (0, batches, 0), donate=(0,))
        self.epoch = lanewise(self._epoch, (0, None, None, 0, None, 0, 0), donate=(0,))
        # of one run, lanes or not
        self.predict = jax.jit(self._predict)
        self._add = jax.jit(self._accumulated, donate_argnums=0)
        self.accumulate = self._accumulate
        if lanes is not None:
            self.accumulate = lanewise(self._accumulate, (0, 0, 0, 0, 0, 0), donate=(0,))
        self.divergence = jax.jit(self._divergence)

    def start(self, seed: Array) -> TrainState:
        """The state of one run, lanes or not, before its first step."""
        _, params, stats, _ = _split(build(self.config, self.channels, seed))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            # A copy, because steps donate the state.
            seed=jnp.copy(seed),
            params=params,
            stats=stats,
            opt_state=self.optimizer.init(params),
            scale=jnp.ones((), jnp.float32),
        )

    def train_step(
        self, state: TrainState, batch: Batch, teacher: Teacher | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step of gradient descent, by the method ``qad`` with a teacher; pure."""
        key = jax.random.key(state.seed)
        images, masks = batch.images, batch.masks
        if self.config.augment:
            keys = augment.keys(state.seed, batch.epoch, batch.index)
            images, masks = augment.augment(images, masks, keys)
        images = augment.normalize(images)

        def loss_of(params):
            model = _merge(self._train_graph, params, state.stats, self._rest)
            fp4nnx.refresh_keys(model, jax.random.fold_in(key, _ROUNDING), state.step)
            dropout = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
            logits = model(images, rngs=nnx.Rngs(dropout=dropout))
            if teacher is None:
                loss, parts = self.loss.with_components(logits, masks)
            else:
                loss, parts = self.distillation.with_components(
                    logits, masks, self._teach(teacher, images), weight=teacher.weight
                )
            return loss, (parts, nnx.state(model, nnx.BatchStat))

        (loss, (parts, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        rate = self.rate(state.step) * state.scale
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        new = dataclasses.replace(
            state, step=state.step + 1, params=params, stats=stats, opt_state=opt_state
        )
        norm = optax.tree.norm(grads)
        return new, {"loss": loss, **parts, "grad_norm": norm, "learning_rate": rate}

    def _epoch(self, state, images, masks, order, epoch, active, teacher=None):
        """All steps of an epoch, (steps, b) places in the cohort; a lane not active is frozen."""

        def body(state, index):
            batch = Batch(images[index], masks[index], index, epoch)
            return self.train_step(state, batch, teacher)

        new, values = jax.lax.scan(body, state, order)
        return jax.tree.map(lambda a, b: jnp.where(active, a, b), new, state), values

    def _predict(self, params, stats, images: Array) -> Array:
        """Logits (n, h, w) of images as stored, in evaluation mode."""
        model = _merge(self._eval_graph, params, stats, self._rest)
        # The forward pass rounds to nearest, but stochastic operations want some key.
        fp4nnx.refresh_keys(model, 0, 0)
        return model(augment.normalize(images))[..., 0]

    def _teach(self, teacher: Teacher, images: Array) -> Array:
        """The teacher's logits of normalized images."""
        model = _merge(self._teacher_graph, teacher.params, teacher.stats, self._teacher_rest)
        return model(images)

    def _divergence(self, params, stats, images, masks, teacher: Teacher) -> tuple[Array, Array]:
        """(task loss, divergence from the teacher) of images as stored, in evaluation mode."""
        logits = self._predict(params, stats, images)
        taught = self._teach(teacher, augment.normalize(images))[..., 0]
        _, parts = self.distillation.with_components(logits, masks, taught)
        return self.loss(logits, masks), parts["divergence"]

    def _accumulate(self, sums: "Sums", params, stats, images, masks, weights) -> "Sums":
        # Two programs, because the larger one serves the final evaluation too.
        return self._add(sums, self.predict(params, stats, images), masks, weights)

    def _accumulated(self, sums: "Sums", logits: Array, masks, weights) -> "Sums":
        loss = self.loss(logits, masks, weights)
        return Sums(
            metrics=metrics.accumulate(sums.metrics, logits, masks, weights),
            loss=sums.loss + loss * weights.sum(),
            weight=sums.weight + weights.sum(),
        )

    def zero_sums(self, images: int) -> "Sums":
        """The sums before the first batch of ``images`` images."""
        sums = Sums(metrics.zeros(images), jnp.zeros(()), jnp.zeros(()))
        if self.lanes is None:
            return sums
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (self.lanes, *a.shape)), sums)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Sums:
    """What the batches of a part of the cohort add up to."""

    metrics: metrics.Accumulated
    # sums over images of their loss, and of their weights
    loss: Any
    weight: Any

    def summarize(self, patient_ids: Sequence[str] | np.ndarray) -> dict[str, float]:
        """The metrics of :func:`fp4jax.metrics.summarize`, and the mean ``loss`` of an image."""
        report = metrics.summarize(self.metrics, patient_ids)
        return {"loss": float(self.loss) / float(self.weight), **report}


def _merge(graph: Any, *states: Any) -> Any:
    # A copy: what the model changes belongs to the trace it is called in.
    return nnx.merge(graph, *jax.tree.map(lambda leaf: leaf, states))


def _split(model: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """(graph, parameters, statistics of batch norm, rounding keys)."""
    graph, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    return graph, params, stats, rest
