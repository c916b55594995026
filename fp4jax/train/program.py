"""The compiled steps of a run: ``train_step(state, batch) -> (state, metrics)`` and prediction.

One :class:`Program` serves all seeds and folds of a configuration, because seed and learning rate
are operands. On accelerators the steps of an epoch are one ``lax.scan`` over data that stay on the
device, and several runs are lanes of a ``vmap``. On CPU the host calls one jitted, donated step:
XLA's weight gradients are many times slower inside a loop there, and batched kernels too. So it
does for data that the accelerator has no room for, and for patches that workers draw.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fp4jax import losses, models, nnx as fp4nnx
from fp4jax.core.typing import Array
from fp4jax.data import augment
from fp4jax.inference import Alone
from fp4jax.ops.rules import Rules
from fp4jax.train import optimizer as optimizers
from fp4jax.train.config import MONAI, RunConfig
from fp4jax.train.devices import Devices
from fp4jax.train.records import from_json
from fp4jax.train.state import Batch, Teacher, TrainState
from fp4jax.train.task import exclusive

# Streams of keys from a run's seed; the numbers of the epochs are those of the augmentation.
_DROPOUT, _ROUNDING, _INIT = 2**32 - 1, 2**32 - 2, 2**32 - 3


def build(config: RunConfig, channels: int, regions: int, seed: int | Array) -> nnx.Module:
    """The model of a run with its recipe applied, in training mode, freshly initialised.

    Args:
        config: of the run; its checkpoint is not read.
        channels: of the images.
        regions: that are segmented; each a sigmoid of one logit or, if the loss is of classes that
            exclude each other, a class of a softmax beside the background.
        seed: of the initial weights.

    Raises:
        ValueError: options or a size that the model does not take.
    """
    model: Any = models.create(
        config.arch,
        None if config.scale == MONAI else config.scale,
        in_channels=channels,
        num_classes=regions + exclusive(config),
        rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(seed), _INIT)),
        dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        **config.data.model_arguments(config),
        **config.model_options,
    )
    # Rules speak of every layer, those too that the model would keep.
    own = () if isinstance(config.recipe, Rules) else model.high_precision
    keep = own if config.keep is None else config.keep
    options: dict[str, Any] = {"attention": config.attention, "verbose": False}
    model = fp4nnx.apply_recipe(model, config.recipe, keep=keep, **options)
    model.train()
    return model


class Program:
    """The steps of ``config`` for images with ``channels`` channels and ``regions`` targets.

    Args:
        config: its seed and split play no part.
        channels: of the images.
        regions: that are segmented.
        lanes: None for one run; a number of runs that go side by side (``vmap``), whose states and
            batches have a leading axis.
        devices: that share each batch of one run; None for one device.

    Example:
        >>> from fp4jax.train import Slices
        >>> small = {"stages": 2, "channels": 16}
        >>> config = RunConfig(Slices(image_size=32), arch="cnn", model_options=small)
        >>> program = Program(config, channels=3)
        >>> state = program.start(2026)
        >>> image = jnp.zeros((2, 32, 32, 3), jnp.uint8)
        >>> batch = Batch(image, image[..., 0], jnp.arange(2), jnp.int32(1), jnp.float32(1e-3))
        >>> state, values = program.step(state, batch)  # the old state is donated
        >>> int(state.step), sorted(values)
        (1, ['bce', 'dice', 'grad_norm', 'learning_rate', 'loss', 'tversky'])
    """

    def __init__(
        self,
        config: RunConfig,
        channels: int,
        regions: int = 1,
        lanes: int | None = None,
        devices: Devices | None = None,
    ):
        self.config = config = config.resolved()
        self.channels, self.regions, self.lanes = channels, regions, lanes
        self.exclusive = exclusive(config)
        several = None if self.exclusive or regions == 1 else regions
        self.loss: Any = losses.get_loss(config.loss or "", several)
        self.distillation = losses.Distillation(
            task=self.loss,
            temperature=config.temperature,
            ref=config.divergence == "cross_entropy_ref",
        )
        constants: Any = config
        self.optimizer = optimizers.optimizer(
            constants.optimizer, constants.weight_decay, clip=config.clip
        )
        # Abstract: parameters come from start, rounding keys are refilled in every step.
        model = nnx.eval_shape(lambda: build(config, channels, regions, 0))
        self._train_graph, *_, self._rest = _split(model)
        model.eval()
        self._eval_graph, *_ = _split(model)
        if config.method == "qad":
            teacher = nnx.eval_shape(lambda: build(config.teacher(), channels, regions, 0))
            teacher.eval()
            self._teacher_graph, *_, self._teacher_rest = _split(teacher)
        step, epoch = self.train_step, self._epoch
        if lanes is not None:
            step = _of_lanes(self._masked_step, (0, 0, 0, 0))
            epoch = _of_lanes(epoch, (0, None, None, 0, 0))
        self._augmented: Callable = config.data.augmented
        where: Any = {}
        if devices is not None:
            step, where = self._shared_step, {"out_shardings": devices.replicated}
            self._augmented = devices.each(config.data.augmented)
        self.step = jax.jit(step, donate_argnums=0, **where)
        self.epoch = jax.jit(epoch, donate_argnums=0)
        self.divergence = jax.jit(self._divergence)
        self.alone = Alone(self.predict)

    def start(self, seed: int | Array) -> TrainState:
        """The state of one run before its first step, from the checkpoint that it names."""
        # Not compiled as a whole: its parts serve all layers and programs of a shape.
        model = build(self.config, self.channels, self.regions, jnp.asarray(seed, jnp.uint32))
        if self.config.weights is not None:
            models.load_torch(model, models.read_weights(self.config.weights))
        return self._state_of(model, seed)

    def abstract(self) -> TrainState:
        """Structure, shapes and dtypes of the state of one run; reads and computes nothing."""

        def start(seed):
            return self._state_of(build(self.config, self.channels, self.regions, seed), seed)

        return jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.uint32))

    def _state_of(self, model: nnx.Module, seed: Any) -> TrainState:
        _, params, stats, _ = _split(model)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            # A copy, because steps donate the state.
            seed=jnp.array(seed, jnp.uint32),
            params=params,
            stats=stats,
            opt_state=self.optimizer.init(params),
        )

    def train_step(
        self, state: TrainState, batch: Batch, teacher: Teacher | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step of gradient descent, by the method ``qad`` with a teacher; pure."""
        key, task = jax.random.key(state.seed), self.config.data
        keys = augment.keys(state.seed, batch.epoch, batch.index)
        images, targets = self._augmented(batch.images, batch.targets, keys)
        images, targets = task.inputs(images), task.targets(targets, self.config)

        def loss_of(params):
            model = _merge(self._train_graph, params, state.stats, self._rest)
            fp4nnx.refresh_keys(model, jax.random.fold_in(key, _ROUNDING), state.step)
            dropout = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
            logits = model(images, rngs=nnx.Rngs(dropout=dropout))
            if teacher is None:
                loss, parts = self.loss.with_components(logits, targets)
            else:
                loss, parts = self.distillation.with_components(
                    logits, targets, self._teach(teacher, images), weight=teacher.weight
                )
            return loss, (parts, nnx.state(model, nnx.BatchStat))

        (loss, (parts, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - batch.rate * u, state.params, updates)
        new = dataclasses.replace(
            state, step=state.step + 1, params=params, stats=stats, opt_state=opt_state
        )
        norm = optax.tree.norm(grads)
        return new, {"loss": loss, **parts, "grad_norm": norm, "learning_rate": batch.rate}

    def _masked_step(self, state, batch, on, teacher=None):
        """A step of a lane that has one to take; the state of others stays what it is."""
        new, values = self.train_step(state, batch, teacher)
        return jax.tree.map(lambda a, b: jnp.where(on, a, b), new, state), values

    def _shared_step(self, state, batch, stop, teacher=None):
        """A step of several processes; ``stop``: whether any of them is asked to end."""
        new, values = self.train_step(state, batch, teacher)
        return new, values | {"stop": jnp.max(stop)}

    def _epoch(self, state, images, targets, steps: tuple, teacher=None):
        """The steps of an epoch on resident data: (steps,) epochs, rates, on; (steps, b) places."""

        def body(state, step):
            index, epoch, rate, on = step
            batch = Batch(images[index], targets[index], index, epoch, rate)
            return self._masked_step(state, batch, on, teacher)

        return jax.lax.scan(body, state, steps)

    def predict(self, variables: tuple[Any, Any], images: Array) -> Array:
        """Logits (n, *space, k) of images as stored, in evaluation mode; pure, not compiled."""
        model = _merge(self._eval_graph, *variables, self._rest)
        # The forward pass rounds to nearest, but stochastic operations want some key.
        fp4nnx.refresh_keys(model, 0, 0)
        return model(self.config.data.inputs(images))

    def _teach(self, teacher: Teacher, images: Array) -> Array:
        """The teacher's logits of what the network sees."""
        model = _merge(self._teacher_graph, teacher.params, teacher.stats, self._teacher_rest)
        return model(images)

    def _divergence(self, variables, images, targets, teacher: Teacher) -> tuple[Array, Array]:
        """(task loss, divergence from the teacher) of images as stored, in evaluation mode."""
        logits = self.predict(variables, images)
        taught = self._teach(teacher, self.config.data.inputs(images))
        targets = self.config.data.targets(targets, self.config)
        _, parts = self.distillation.with_components(logits, targets, taught)
        return self.loss(logits, targets), parts["divergence"]


def program_of(
    config: RunConfig,
    channels: int,
    regions: int = 1,
    lanes: int | None = None,
    devices: Devices | None = None,
) -> Program:
    """A :class:`Program`, the same for configurations that share their compiled steps."""
    return _program(key_of(config), channels, regions, lanes, devices)


def key_of(config: RunConfig) -> str:
    """Runs with equal keys share their compiled steps."""
    same = dataclasses.replace(config.resolved(), seed=0, split="holdout")
    return json.dumps(same.to_json(), sort_keys=True)


@functools.lru_cache(maxsize=2)
def _program(
    key: str, channels: int, regions: int, lanes: int | None, devices: Devices | None
) -> Program:
    return Program(from_json(json.loads(key)), channels, regions, lanes, devices)


def parameters(params: Any) -> int:
    """Number of trainable parameters."""
    return sum(int(np.size(p)) for p in jax.tree.leaves(params))


def _of_lanes(function: Callable, axes: tuple) -> Callable:
    mapped = jax.vmap(function, in_axes=axes)

    def of_lanes(*args):  # vmap does not know of the default, no teacher
        return mapped(*args, *[None] * (len(axes) - len(args)))

    return of_lanes


def _merge(graph: Any, *states: Any) -> Any:
    # A copy: what the model changes belongs to the trace it is called in.
    return nnx.merge(graph, *jax.tree.map(lambda leaf: leaf, states))


def _split(model: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """(graph, parameters, statistics of batch norm, rounding keys)."""
    graph, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    return graph, params, stats, rest
