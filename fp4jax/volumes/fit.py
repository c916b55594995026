"""Training on volumes: epochs of patches, validation on whole cases, checkpoints.

The patches of step s in epoch e, and every random number, follow from the seed, e and s alone, and
a checkpoint is written after each epoch. So a run that is killed and repeated ends with the same
bits as one that never stopped (on CPU, whose sums are always taken in the same order).
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.data.nifti.pool import ordered
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.console import Listener
from fp4jax.train.folder import RunFolder
from fp4jax.train.loop import DivergedError
from fp4jax.train.state import Batch, TrainState
from fp4jax.volumes.cases import Data
from fp4jax.volumes.config import VolumeRun
from fp4jax.volumes.evaluation import mean_dice
from fp4jax.volumes.inference import Segmenter
from fp4jax.volumes.program import Program


@dataclasses.dataclass
class Progress:
    """What is decided on the host, as a checkpoint keeps it."""

    epoch: int = 0
    # of training and validation
    seconds: float = 0.0
    best_epoch: int = 0
    # mean over regions of the validation cases; None before the first validation
    best_dice: float | None = None


class Fit:
    """Trains one run, or goes on with it.

    Args:
        config: of the run.
        program: the compiled steps.
        data: the cases and their split.
        folder: of the run; gets the history.
        checkpoints: of the run.
        listener: is told about steps and epochs.
    """

    def __init__(
        self,
        config: VolumeRun,
        program: Program,
        data: Data,
        folder: RunFolder,
        checkpoints: Checkpoints,
        listener: Listener,
    ):
        self.config, self.program, self.data = config, program, data
        self.folder, self.checkpoints = folder, checkpoints
        self.listener = listener
        self.sampler = data.sampler(config)
        self.progress = Progress()

    def __call__(self) -> tuple[Any, Any]:
        """(params, stats) of the best epoch; ``progress`` says which that was.

        Raises:
            fp4jax.train.DivergedError: a loss or gradient that is not finite.
        """
        config = self.config
        state, best = self._start()
        self.folder.start_history(self.progress.epoch)
        for epoch in range(self.progress.epoch + 1, config.epochs + 1):
            began = time.perf_counter()
            state, record = self._train(state, epoch)
            if epoch % config.validate_every == 0 or epoch == config.epochs:
                record |= self._validate(state)
            seconds = time.perf_counter() - began
            if self._is_best(record):
                self.progress.best_epoch = epoch
                self.progress.best_dice = record.get("val_dice")
                # A copy: the step donates the state's arrays.
                best = jax.tree.map(jnp.copy, (state.params, state.stats))
            self.progress.epoch = epoch
            self.progress.seconds += seconds
            line = {"epoch": epoch, **record, "best_epoch": self.progress.best_epoch}
            self.folder.append(line | {"seconds": round(seconds, 3)})
            self.checkpoints.save(epoch, state, best, dataclasses.asdict(self.progress))
            self.listener.epoch(self.folder.path.name, line)
        return best

    def _start(self) -> tuple[TrainState, Any]:
        """The state and the best parameters of the last checkpoint, or new ones."""
        epochs = self.checkpoints.epochs()
        if epochs:
            like = self.program.abstract()
            state, best, progress = self.checkpoints.restore(
                epochs[-1], like, (like.params, like.stats)
            )
            self.progress = Progress(**progress)
            return state, best
        state = self.program.init(jnp.uint32(self.config.seed))
        return state, jax.tree.map(jnp.copy, (state.params, state.stats))

    def _train(self, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, float]]:
        """The state after an epoch, and the means of what its steps measured.

        ``waited`` is the share of the epoch in which no step ran because its patches were not yet
        there; an upper bound, because a step may end while the host waits.
        """
        config = self.config
        first = (epoch - 1) * config.steps

        def draw(step: int) -> Batch:
            return self._batch(epoch, first + step)

        began, waited, rows = time.perf_counter(), 0.0, []
        last: dict[str, Any] | None = None
        workers, ahead = self.sampler.workers, self.sampler.prefetch
        batches: Any = ordered(draw, range(config.steps), workers, ahead)
        try:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                if last is None or last["loss"].is_ready():
                    waited += time.perf_counter() - asked
                state, values = self.program.step(state, batch)
                # One step ahead of what is known, so that the device is never without work.
                if last is not None:
                    rows.append(_finite(last, epoch, first + len(rows)))
                last = values
                self.listener.steps(1)
        finally:
            batches.close()
        rows.append(_finite(last or {}, epoch, first + len(rows)))
        seconds = time.perf_counter() - began
        record = {f"train_{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}
        record["learning_rate"] = rows[-1]["learning_rate"]
        record["grad_norm"] = record.pop("train_grad_norm")
        del record["train_learning_rate"]
        return state, record | {"waited": round(waited / seconds, 4)}

    def _batch(self, epoch: int, step: int) -> Batch:
        """The patches of a step, counted from the first epoch's, on the device."""
        config = self.config
        # The sampler's epochs take every case once; those here have as many steps as asked for.
        images, targets = self.sampler.batch(*divmod(step, self.sampler.steps_per_epoch))
        if self.program.exclusive and targets.sum(-1).max() > 1:
            raise ValueError(
                f"the regions {', '.join(self.data.regions)} overlap, but the loss {config.loss} "
                "is of classes that exclude each other; take bce_dice, or regions that do not."
            )
        if config.spatial_dims == 2:
            images, targets = images[..., 0, :], targets[..., 0, :]
        index = np.arange(config.batch_size, dtype=np.int32) + step * config.batch_size
        return Batch(*map(jnp.asarray, (images, targets, index, np.int32(epoch))))

    def _validate(self, state: TrainState) -> dict[str, float]:
        """Dice of each region and their mean, of the validation cases; nothing without any."""
        places = self.data.places("val")
        if not places:
            return {}
        data = self.data
        segmenter = Segmenter(
            self.program, state.params, state.stats, data.modalities, data.regions
        )
        scores = mean_dice(segmenter, data, places)
        return {f"val_{name}": value for name, value in scores.items()}

    def _is_best(self, record: dict[str, float]) -> bool:
        """Whether an epoch is better than all before; without validation cases the last is."""
        if not self.data.places("val"):
            return True
        dice, best = record.get("val_dice", np.nan), self.progress.best_dice
        return bool(np.isfinite(dice)) and (best is None or dice > best)


def _finite(values: dict[str, Any], epoch: int, step: int) -> dict[str, float]:
    """The values of a step as numbers; raises DivergedError if one is not finite."""
    row = {name: float(value) for name, value in jax.device_get(values).items()}
    bad = [name for name in ("loss", *row) if not np.isfinite(row[name])]
    if bad:
        raise DivergedError(
            f"{bad[0]} is {row[bad[0]]} at step {step} (epoch {epoch}); the last checkpoint before "
            "it is kept. Lower the learning rate, or use another recipe or seed."
        )
    return row
