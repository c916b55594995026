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
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.recipe import get_recipe
from fp4jax.ops.rules import Rules
from fp4jax.train import optimizer as optimizers
from fp4jax.train.config import MONAI, RunConfig
from fp4jax.train.devices import Devices
from fp4jax.train.records import from_json
from fp4jax.train.state import Batch, Teacher, TrainState
from fp4jax.train.task import exclusive
from fp4jax.train.warm_start import WarmStart

#: Beside the parameters what a network has: statistics of batch norm, amaxes of its layers' x.
STATISTICS = (nnx.BatchStat, fp4nnx.OperandAmax)
#: Name of the axis of a program's lanes.
LANES = "lanes"
# Streams of keys from a run's seed; the numbers of the epochs are those of the augmentation.
_DROPOUT, _ROUNDING, _INIT = 2**32 - 1, 2**32 - 2, 2**32 - 3


def build(
    config: RunConfig, channels: int, regions: int, seed: int | Array, *, static: bool = False
) -> nnx.Module:
    """The model of a run with its recipe applied, in training mode, freshly initialised.

    Args:
        config: of the run; its checkpoint is not read.
        channels: of the images.
        regions: that are segmented; each a sigmoid of one logit or, if the loss is of classes that
            exclude each other, a class of a softmax beside the background.
        seed: of the initial weights.
        static: with a place for a static amax of x in every layer that quantizes it.

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
    if config.running_amax is not None:
        model = fp4nnx.running_amax(model, config.running_amax)
    if static:
        model = fp4nnx.expect_static(model)
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
        static: predict with static scales of x, which are among the statistics.

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
        *,
        static: bool = False,
    ):
        self.config = config = config.resolved()
        self.channels, self.regions, self.lanes = channels, regions, lanes
        self.static = static
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
        model = nnx.eval_shape(self._build)
        self._train_graph, *_, self._rest = split(model)
        self._warm_graph = _in_high_precision(model)
        self._follows = fp4nnx.follows(model)
        model.eval()
        self._eval_graph, *_ = split(model)
        if config.method == "qad":
            teacher = nnx.eval_shape(lambda: build(config.teacher(), channels, regions, 0))
            teacher.eval()
            self._teacher_graph, *_, self._teacher_rest = split(teacher)
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
        if config.warm_start_steps and lanes is None:
            warm = self.warm_step if devices is None else self._shared_warm_step
            warm = jax.jit(warm, donate_argnums=0, **where)
            self.step = WarmStart(config.warm_start_steps, warm, self.step)
        self.epoch = jax.jit(epoch, donate_argnums=0)
        self.divergence = jax.jit(self._divergence)
        self.alone = Alone(self.predict)

    def _build(self, seed: int | Array = 0) -> nnx.Module:
        return build(self.config, self.channels, self.regions, seed, static=self.static)

    def start(self, seed: int | Array) -> TrainState:
        """The state of one run before its first step, from the checkpoint that it names."""
        # Not compiled as a whole: its parts serve all layers and programs of a shape.
        model = self._build(jnp.asarray(seed, jnp.uint32))
        if self.config.weights is not None:
            models.load_torch(model, models.read_weights(self.config.weights))
        return self._state_of(model, seed)

    def abstract(self) -> TrainState:
        """Structure, shapes and dtypes of the state of one run; reads and computes nothing."""

        def start(seed):
            return self._state_of(self._build(seed), seed)

        return jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.uint32))

    def _state_of(self, model: nnx.Module, seed: Any) -> TrainState:
        _, params, stats, _ = split(model)
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
        return self._take(self._train_graph, state, batch, teacher)

    def warm_step(
        self, state: TrainState, batch: Batch, teacher: Teacher | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """The same in high precision."""
        return self._take(self._warm_graph, state, batch, teacher)

    def _take(self, graph: Any, state: TrainState, batch: Batch, teacher: Teacher | None):
        key, task = jax.random.key(state.seed), self.config.data
        keys = augment.keys(state.seed, batch.epoch, batch.index)
        images, targets = self._augmented(batch.images, batch.targets, keys)
        images, targets = task.inputs(images), task.targets(targets, self.config)

        def loss_of(params):
            model = _merge(graph, params, state.stats, self._rest)
            fp4nnx.refresh_keys(model, jax.random.fold_in(key, _ROUNDING), state.step)
            dropout = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
            logits = model(images, rngs=nnx.Rngs(dropout=dropout))
            if teacher is None:
                loss, parts = self.loss.with_components(logits, targets)
            else:
                loss, parts = self.distillation.with_components(
                    logits, targets, self._teach(teacher, images), weight=teacher.weight
                )
            return loss, (parts, nnx.state(model, STATISTICS))

        (loss, (parts, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - batch.rate * u, state.params, updates)
        if self._follows:
            model = _merge(graph, params, stats, self._rest)
            _, params, stats, _ = split(fp4nnx.update_amax(model))
        new = dataclasses.replace(
            state, step=state.step + 1, params=params, stats=stats, opt_state=opt_state
        )
        norm = optax.tree.norm(grads)
        return new, {"loss": loss, **parts, "grad_norm": norm, "learning_rate": batch.rate}

    def _masked_step(self, state, batch, on, teacher=None):
        """A step of a lane that has one to take; the state of others stays what it is."""
        new, values = self._due_step(state, batch, teacher)
        return jax.tree.map(lambda a, b: jnp.where(on, a, b), new, state), values

    def _due_step(self, state, batch, teacher):
        """A warm step or one of the recipe, as the number of the step says."""
        if not self.config.warm_start_steps:
            return self.train_step(state, batch, teacher)
        warm = state.step < self.config.warm_start_steps
        if self.lanes is None:
            return jax.lax.cond(warm, self.warm_step, self.train_step, state, batch, teacher)

        def both(state, batch, teacher):
            steps = (step(state, batch, teacher) for step in (self.warm_step, self.train_step))
            return jax.tree.map(lambda a, b: jnp.where(warm, a, b), *steps)

        # One answer for all lanes, or vmap would take both steps for good.
        some = jax.lax.pmax(warm.astype(jnp.int32), LANES) > 0
        return jax.lax.cond(some, both, self.train_step, state, batch, teacher)

    def _shared_step(self, state, batch, stop, teacher=None):
        """A step of several processes; ``stop``: whether any of them is asked to end."""
        new, values = self.train_step(state, batch, teacher)
        return new, values | {"stop": jnp.max(stop)}

    def _shared_warm_step(self, state, batch, stop, teacher=None):
        """The same in high precision."""
        new, values = self.warm_step(state, batch, teacher)
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
        return self.network(*variables)(self.config.data.inputs(images))

    def network(self, params: Any, stats: Any) -> Any:
        """The model with these parameters and statistics, in evaluation mode."""
        model = _merge(self._eval_graph, params, stats, self._rest)
        # The forward pass rounds to nearest, but stochastic operations want some key.
        return fp4nnx.refresh_keys(model, 0, 0)

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
    *,
    static: bool = False,
) -> Program:
    """A :class:`Program`, the same for configurations that share their compiled steps."""
    return _program(key_of(config), channels, regions, lanes, devices, static)


def key_of(config: RunConfig) -> str:
    """Runs with equal keys share their compiled steps."""
    same = dataclasses.replace(config.resolved(), seed=0, split="holdout")
    return json.dumps(same.to_json(), sort_keys=True)


@functools.lru_cache(maxsize=3)
def _program(
    key: str,
    channels: int,
    regions: int,
    lanes: int | None,
    devices: Devices | None,
    static: bool,
) -> Program:
    return Program(from_json(json.loads(key)), channels, regions, lanes, devices, static=static)


def parameters(params: Any) -> int:
    """Number of trainable parameters."""
    return sum(int(np.size(p)) for p in jax.tree.leaves(params))


def _of_lanes(function: Callable, axes: tuple) -> Callable:
    mapped = jax.vmap(function, in_axes=axes, axis_name=LANES)

    def of_lanes(*args):  # vmap does not know of the default, no teacher
        return mapped(*args, *[None] * (len(axes) - len(args)))

    return of_lanes


def _merge(graph: Any, *states: Any) -> Any:
    # A copy: what the model changes belongs to the trace it is called in.
    return nnx.merge(graph, *jax.tree.map(lambda leaf: leaf, states))


def _in_high_precision(model: nnx.Module) -> Any:
    """The graph of the model whose layers have their variables, but quantize nothing."""
    model = nnx.clone(model)
    for _, op in nnx.iter_modules(model):
        if isinstance(op, fp4nnx.AttentionOp):
            op.recipe = AttentionRecipe(name="baseline")
        elif isinstance(op, fp4nnx.Op):
            op.recipe = get_recipe("baseline")
    return split(model)[0]


def split(model: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """(graph, parameters, statistics, rounding keys)."""
    graph, params, stats, rest = nnx.split(model, nnx.Param, STATISTICS, ...)
    return graph, params, stats, rest


def fitted(like: Any, state: Any) -> Any:
    """Parameters or statistics of a model, as the same model under another recipe has them.

    What a recipe adds (a learned amax, amaxes of earlier steps) is left out, or 0.

    Args:
        like: those of the other recipe; shapes will do.
        state: the values.
    """
    known = dict(nnx.to_flat_state(state))
    return nnx.from_flat_state(
        (path, known.get(path) or leaf.replace(jnp.zeros(leaf.shape, leaf.dtype)))
        for path, leaf in nnx.to_flat_state(like)
    )
