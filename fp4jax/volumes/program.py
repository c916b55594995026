"""The compiled steps of a run on volumes: ``train_step(state, batch) -> (state, metrics)``.

Patches come from the host, one batch a step; all else happens inside the step: augmentation, the
model, the loss, the optimizer. The seed lies in the state, so one compilation serves all seeds.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fp4jax import losses, models, nnx as fp4nnx
from fp4jax.core.typing import Array
from fp4jax.data import augment, augment_volumes
from fp4jax.train import optimizer as optimizers
from fp4jax.train.state import Batch, TrainState
from fp4jax.volumes.config import MONAI, VolumeRun, from_json

# Streams of keys from a run's seed; the numbers of the epochs are those of the augmentation.
_DROPOUT, _ROUNDING = 2**32 - 1, 2**32 - 2

_RANGES = {"monai": augment_volumes.MONAI, "nnunet": augment_volumes.NNUNET}


def build(config: VolumeRun, channels: int, regions: int, seed: int | Array) -> nnx.Module:
    """The model of a run with its recipe applied, in training mode, freshly initialised.

    Args:
        config: of the run; its checkpoint is not read.
        channels: of the images.
        regions: that are segmented; each a sigmoid of one logit or, if the loss is of classes that
            exclude each other, a class of a softmax beside the background.
        seed: of the initial weights.

    Raises:
        ValueError: options or a patch that the model does not take.
    """
    config, size = config.resolved(), config.patch_size
    options: dict[str, Any] = dict(config.model_options)
    model: Any = models.create(
        config.arch,
        None if config.scale == MONAI else config.scale,
        in_channels=channels,
        num_classes=regions + exclusive(config),
        image_size=size[0] if len(set(size)) == 1 else size,
        rngs=nnx.Rngs(jax.random.key(seed)),
        dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        **dims(config),
        **options,
    )
    keep = model.high_precision if config.keep is None else config.keep
    model = fp4nnx.apply_recipe(model, config.recipe, keep=keep, verbose=False)
    model.train()
    return model


class Program:
    """The steps of ``config`` for images with ``channels`` channels and ``regions`` targets.

    Args:
        config: its seed plays no part.
        channels: of the images.
        regions: channels of the targets.

    Example:
        >>> small = {"model_options": {"stages": 2, "channels": 16}, "augment": "none"}
        >>> config = VolumeRun("cnn", spatial_dims=2, patch_size=(32, 32), **small)
        >>> program = Program(config, channels=4, regions=3)
        >>> state = program.init(jnp.uint32(2026))
        >>> images, targets = jnp.zeros((2, 32, 32, 4)), jnp.zeros((2, 32, 32, 3), jnp.uint8)
        >>> batch = Batch(images, targets, jnp.arange(2), jnp.int32(1))
        >>> state, values = program.step(state, batch)  # the old state is donated
        >>> int(state.step), sorted(values)
        (1, ['bce', 'dice', 'grad_norm', 'learning_rate', 'loss', 'tversky'])
    """

    def __init__(self, config: VolumeRun, channels: int, regions: int):
        self.config = config = config.resolved()
        self.channels, self.regions = channels, regions
        self.exclusive = exclusive(config)
        self.loss: Any = losses.get_loss(config.loss, None if self.exclusive else regions)
        constants: Any = config
        self.optimizer = optimizers.optimizer(
            constants.optimizer, constants.weight_decay, clip=config.clip
        )
        self.rate = optimizers.schedule(
            config.schedule, constants.learning_rate, config.epochs * config.steps
        )
        # Abstract: parameters come from init, rounding keys are refilled in every step.
        model = nnx.eval_shape(lambda: build(config, channels, regions, 0))
        self._train_graph, *_, self._rest = _split(model)
        model.eval()
        self._eval_graph, *_ = _split(model)
        self.step = jax.jit(self.train_step, donate_argnums=0)
        self.predict = jax.jit(self._predict)

    def init(self, seed: Array) -> TrainState:
        """The state before the first step, from the checkpoint that the configuration names."""
        model = build(self.config, self.channels, self.regions, seed)
        if self.config.weights is not None:
            models.load_torch(model, models.read_weights(self.config.weights))
        return self.state_of(model, seed)

    def state_of(self, model: nnx.Module, seed: Array) -> TrainState:
        """The state of a model that takes its first step."""
        _, params, stats, _ = _split(model)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            # A copy, because steps donate the state.
            seed=jnp.copy(seed),
            params=params,
            stats=stats,
            opt_state=self.optimizer.init(params),
            scale=jnp.ones((), jnp.float32),
        )

    def abstract(self) -> TrainState:
        """Structure, shapes and dtypes of the state; reads and computes nothing."""

        def start(seed):
            return self.state_of(build(self.config, self.channels, self.regions, seed), seed)

        return jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.uint32))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """One step of gradient descent; pure."""
        key = jax.random.key(state.seed)
        images, targets = batch.images, batch.masks
        if self.config.augment != "none":
            keys = augment.keys(state.seed, batch.epoch, batch.index)
            ranges = _RANGES[self.config.augment]
            images, targets = augment_volumes.augment(images, targets, keys, ranges)
        if self.exclusive:
            numbers = jnp.arange(1, self.regions + 1, dtype=jnp.int32)
            targets = jnp.max(
                targets.astype(jnp.int32) * numbers.reshape(*[1] * (targets.ndim - 1), -1), -1
            )

        def loss_of(params):
            model = _merge(self._train_graph, params, state.stats, self._rest)
            fp4nnx.refresh_keys(model, jax.random.fold_in(key, _ROUNDING), state.step)
            dropout = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
            logits = model(images, rngs=nnx.Rngs(dropout=dropout))
            loss, parts = self.loss.with_components(logits, targets)
            return loss, (parts, nnx.state(model, nnx.BatchStat))

        (loss, (parts, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        rate = self.rate(state.step)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        new = dataclasses.replace(
            state, step=state.step + 1, params=params, stats=stats, opt_state=opt_state
        )
        norm = optax.tree.norm(grads)
        return new, {"loss": loss, **parts, "grad_norm": norm, "learning_rate": rate}

    def _predict(self, params: Any, stats: Any, images: Array) -> Array:
        """Logits (n, *space, k) of windows, in evaluation mode."""
        model = _merge(self._eval_graph, params, stats, self._rest)
        # The forward pass rounds to nearest, but stochastic operations want some key.
        fp4nnx.refresh_keys(model, 0, 0)
        return model(images)

    def masks(self, logits: np.ndarray) -> np.ndarray:
        """The regions (*space, regions) that logits (*space, k) stand for, uint8 0 and 1.

        A voxel belongs to a region whose probability is above 1/2; of classes to the most probable.
        """
        if not self.exclusive:
            return (logits > 0).astype(np.uint8)
        classes = np.argmax(logits, axis=-1)
        return (classes[..., None] == np.arange(1, self.regions + 1)).astype(np.uint8)


def program_of(config: VolumeRun, channels: int, regions: int) -> Program:
    """A :class:`Program`, the same for configurations that differ in the seed alone."""
    record = dataclasses.asdict(dataclasses.replace(config.resolved(), seed=0))
    weights = record.pop("weights")
    return _program(json.dumps(record, sort_keys=True), weights, channels, regions)


@functools.lru_cache(maxsize=2)
def _program(key: str, weights: Path | None, channels: int, regions: int) -> Program:
    config = dataclasses.replace(from_json(json.loads(key)), weights=weights)
    return Program(config, channels, regions)


def exclusive(config: VolumeRun) -> bool:
    """Whether the loss of a run is of classes that exclude each other."""
    return losses.get_loss(config.loss).exclusive


def dims(config: VolumeRun) -> dict[str, int]:
    """``spatial_dims`` for models that have a choice.

    Raises:
        ValueError: volumes for a model of images.
    """
    if 3 in models.spatial_dims(config.arch):
        return {"spatial_dims": config.spatial_dims}
    if config.spatial_dims == 3:
        raise ValueError(f"{config.arch} is a model of images; use --spatial-dims 2.")
    return {}


def _merge(graph: Any, *states: Any) -> Any:
    # A copy: what the model changes belongs to the trace it is called in.
    return nnx.merge(graph, *jax.tree.map(lambda leaf: leaf, states))


def _split(model: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """(graph, parameters, statistics of batch norm, rounding keys)."""
    graph, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    return graph, params, stats, rest


def parameters(params: Any) -> int:
    """Number of trainable parameters."""
    return sum(int(np.size(p)) for p in jax.tree.leaves(params))
