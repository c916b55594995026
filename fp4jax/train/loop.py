"""Training: epochs, validation, early stopping, checkpoints; resumes where a killed run was.

The order of images in epoch e, and every random number, follow from the seed and e alone, and a
checkpoint is written after each epoch. So a run that is killed and repeated ends with the same
bits as one that never stopped (on CPU, whose sums are always taken in the same order).
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax import losses
from fp4jax.data import Cohort, Split
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.config import RunConfig
from fp4jax.train.console import Listener
from fp4jax.train.early_stopping import EarlyStopping
from fp4jax.train.folder import RunFolder
from fp4jax.train.plateau import Plateau
from fp4jax.train.program import Program
from fp4jax.train.state import Batch, Teacher, TrainState

# Of the validation slices, after every epoch.
VALIDATION = (
    "loss",
    "auprc",
    "recall",
    "precision",
    "f2_score",
    "dice",
    "hard_recall",
    "hard_f2_score",
    "hard_dice_patient",
    "ece",
)
# How often the host looks at the losses of an epoch on CPU, in steps.
_CHECK_EVERY = 50
# A cohort may take this share of a device's memory.
_COHORT_SHARE = 0.5
# How many batches the weight of a distillation is found from.
_CALIBRATION_BATCHES = 10


class DivergedError(RuntimeError):
    """A loss or gradient that is not finite."""


@dataclasses.dataclass
class Arrays:
    """A cohort as the steps take it.

    On an accelerator with room for it, the whole cohort; otherwise each step is given its batch
    from the host's memory (or a file mapped into it), which is gathered while the last one runs.
    """

    images: Any
    masks: Any
    # on an accelerator
    resident: bool

    @classmethod
    def of(cls, cohort: Cohort) -> "Arrays":
        if jax.default_backend() == "cpu" or cohort.nbytes > _room():
            return cls(cohort.images, cohort.masks, resident=False)
        return cls(jnp.asarray(cohort.images), jnp.asarray(cohort.masks), resident=True)


def _room() -> float:
    """Bytes that a cohort may take on the device, infinite where the device does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return _COHORT_SHARE * stats.get("bytes_limit", np.inf)


def places(cohort: Cohort, patients: Sequence[str]) -> np.ndarray:
    """Places of the slices of these patients in the cohort, int32."""
    return np.flatnonzero(np.isin(cohort.patient_ids, patients)).astype(np.int32)


def steps_per_epoch(slices: int, batch_size: int) -> int:
    """The last batch is filled up with images from the start of the epoch's order."""
    return -(-slices // batch_size)


def epoch_order(slices: np.ndarray, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """(steps, batch) places in the cohort, shuffled by seed and epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(slices)
    steps = steps_per_epoch(len(slices), batch_size)
    return np.resize(order, (steps, batch_size))


def padded_batches(
    slices: np.ndarray, batch_size: int, steps: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(places, weights) of batches in order, padded by images of weight 0 to ``steps`` batches."""
    count = (steps or steps_per_epoch(len(slices), batch_size)) * batch_size
    order = np.resize(slices, count).reshape(-1, batch_size)
    weights = (np.arange(count) < len(slices)).astype(np.float32).reshape(-1, batch_size)
    return list(zip(order, weights, strict=True))


@dataclasses.dataclass
class Run:
    """One run of a group: its folder and all that is decided on the host, after each epoch."""

    name: str
    seed: int
    folder: RunFolder
    checkpoints: Checkpoints
    plateau: Plateau
    stopping: EarlyStopping
    # places of the slices to train on and to validate with
    train: np.ndarray
    val: np.ndarray
    # patients of the latter
    val_patients: np.ndarray
    epoch: int = 0
    seconds: float = 0.0
    # why it takes no further steps: "", "early stopping", or what went wrong
    ended: str = ""
    failed: bool = False

    @classmethod
    def of(cls, config: RunConfig, folder: RunFolder, cohort: Cohort, split: Split) -> "Run":
        """A run that has not begun, or that has and goes on when :class:`Fit` loads it."""
        stopping = EarlyStopping(
            patience=None if config.early_stopping == "none" else config.patience,
            warmup=config.warmup_epochs,
            ref=config.early_stopping == "ref",
        )
        plateau = Plateau(ref=config.schedule == "plateau_ref")
        checkpoints = Checkpoints(folder.checkpoints, asynchronous=False)
        train, val = places(cohort, split.train), places(cohort, split.val)
        return cls(
            name=folder.path.name,
            seed=config.seed,
            folder=folder,
            checkpoints=checkpoints,
            plateau=plateau,
            stopping=stopping,
            train=train,
            val=val,
            val_patients=cohort.patient_ids[val],
        )

    @property
    def finished(self) -> bool:
        """Evaluated as well."""
        return self.folder.summary() is not None

    def progress(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "ended": self.ended,
            "plateau": self.plateau.to_dict(),
            "early_stopping": self.stopping.to_dict(),
        }

    def load(self, progress: dict[str, Any]) -> None:
        self.epoch, self.seconds = progress["epoch"], progress["seconds"]
        self.ended = progress["ended"]
        self.plateau = Plateau.from_dict(progress["plateau"])
        self.stopping = EarlyStopping.from_dict(progress["early_stopping"])


class Fit:
    """Trains a group of runs that differ in seed and split alone; one run without lanes.

    Args:
        program: its ``lanes`` is the number of runs, or None for one.
        cohort: the slices.
        runs: of the group; all take the same number of steps in an epoch.
        listener: is told about steps and epochs.
        teachers: (params, stats) of a trained baseline for each run, if the method is ``qad``.
    """

    def __init__(
        self,
        program: Program,
        cohort: Cohort,
        runs: Sequence["Run"],
        listener: Listener,
        teachers: Sequence[Any] | None = None,
    ):
        self.program = program
        self.arrays = Arrays.of(cohort)
        self.runs = list(runs)
        self.listener = listener
        self._teachers = teachers
        size = program.config.batch_size
        # The last batch of a lane with fewer slices to validate with is empty.
        self._val_steps = max(steps_per_epoch(len(run.val), size) for run in self.runs)
        (self._steps,) = {steps_per_epoch(len(run.train), size) for run in self.runs}

    def __call__(self) -> list[Any]:
        """Trains, or goes on; returns (params, stats) of the best epoch of each run.

        A run whose loss is not finite is marked as ``failed``; the others of the group go on.
        """
        config = self.program.config
        state, best = self._start()
        teacher = self._teacher()
        first = min((run.epoch for run in self.runs if not run.ended), default=config.epochs)
        for run in self.runs:
            run.folder.start_history(run.epoch)
        for epoch in range(first + 1, config.epochs + 1):
            active = np.array([not run.ended for run in self.runs])
            if not active.any():
                break
            began = time.perf_counter()
            state, values = self._train(state, epoch, active, teacher)
            records = self._summarize(state, values)
            seconds = time.perf_counter() - began
            improved = [
                on and self._end_epoch(run, epoch, record, seconds)
                for on, run, record in zip(active, self.runs, records, strict=True)
            ]
            best = self._keep(improved, (state.params, state.stats), best)
            scales = self._array([run.plateau.scale for run in self.runs], jnp.float32)
            state = dataclasses.replace(state, scale=scales)
            for i, run in enumerate(self.runs):
                if active[i] and not run.failed:
                    run.checkpoints.save(
                        epoch, self._one(state, i), self._one(best, i), run.progress()
                    )
        return [self._one(best, i) for i in range(len(self.runs))]

    def _start(self) -> tuple[TrainState, Any]:
        """The state and best parameters that all runs have checkpoints of, or new ones."""
        seeds = self._array([run.seed for run in self.runs], jnp.uint32)
        state = self.program.init(seeds)
        best = jax.tree.map(jnp.copy, (state.params, state.stats))
        found = [run.checkpoints.epochs() for run in self.runs]
        if not all(found):
            for run in self.runs:
                run.checkpoints.forget_after(0)
            return state, best
        pairs = [
            self._restore(run, epochs[-1], state, best, i)
            for i, (run, epochs) in enumerate(zip(self.runs, found, strict=True))
        ]
        # Killed between the checkpoints of two lanes: those that are ahead repeat an epoch.
        # Lanes that have ended stay where they are.
        common = min((run.epoch for run in self.runs if not run.ended), default=0)
        for i, run in enumerate(self.runs):
            if not run.ended and run.epoch > common:
                pairs[i] = self._restore(run, common, state, best, i)
                run.checkpoints.forget_after(common)
        if self.program.lanes is None:
            return pairs[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)

    def _restore(self, run: Run, epoch: int, state: Any, best: Any, i: int) -> tuple[Any, Any]:
        """(state, best) of run i after that epoch, and its bookkeeping."""
        last, best, progress = run.checkpoints.restore(
            epoch, self._one(state, i), self._one(best, i)
        )
        run.load(progress)
        if run.finished:
            run.ended = run.ended or "last epoch"
        return last, best

    def _teacher(self) -> Teacher | None:
        """The teachers of all runs with the weights of their distillation, None without any."""
        if self._teachers is None:
            return None
        taught = []
        for run, (params, stats) in zip(self.runs, self._teachers, strict=True):
            teacher = Teacher(params, stats, jnp.float32(self.program.config.distill_weight))
            if self.program.config.distill_ratio is not None:
                weight = self._calibrated(run, teacher)
                teacher = dataclasses.replace(teacher, weight=jnp.float32(weight))
            taught.append(teacher)
        if self.program.lanes is None:
            return taught[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *taught)

    def _train(
        self, state: TrainState, epoch: int, active: np.ndarray, teacher: Teacher | None
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """One epoch; values of each step as arrays with a leading axis of runs."""
        size = self.program.config.batch_size
        orders = [epoch_order(run.train, run.seed, epoch, size) for run in self.runs]
        number = jnp.asarray(epoch, jnp.int32)
        if self.arrays.resident:
            order, on = self._array(orders, jnp.int32), self._array(list(active), jnp.bool_)
            images, masks = self.arrays.images, self.arrays.masks
            state, values = self.program.epoch(state, images, masks, order, number, on, teacher)
            values = jax.tree.map(self._runs_first, values)
            self._check_finite(values, epoch, 0)
            self.listener.steps(len(orders[0]))
            return state, values
        # Steps donate the state; lanes that have ended get theirs back.
        before = None if active.all() else jax.tree.map(jnp.copy, state)
        rows = []
        for i, places in enumerate(zip(*orders, strict=True)):
            index = places[0] if self.program.lanes is None else np.stack(places)
            batch = Batch(
                self.arrays.images[index], self.arrays.masks[index], jnp.asarray(index), number
            )
            state, row = self.program.step(state, batch, teacher)
            rows.append(row)
            if (i + 1) % _CHECK_EVERY == 0 or i + 1 == self._steps:
                first = i // _CHECK_EVERY * _CHECK_EVERY
                self._check_finite(_columns(rows[first:]), epoch, first)
            self.listener.steps(1)
            if all(run.ended for run in self.runs):
                break
        if before is not None:
            state = self._select(active, state, before)
        return state, _columns(rows)

    def _check_finite(self, values: dict[str, np.ndarray], epoch: int, first: int) -> None:
        """Ends the runs of which a value is not finite."""
        for i, run in enumerate(self.runs):
            bad = {
                name: int(np.flatnonzero(~np.isfinite(column[i]))[0])
                for name, column in values.items()
                if not np.isfinite(column[i]).all()
            }
            if bad and not run.ended:
                name = min(bad, key=lambda name: (bad[name], name != "loss"))
                step = (epoch - 1) * self._steps + first + bad[name]
                run.failed = True
                run.ended = (
                    f"{name} is {values[name][i, bad[name]]} at step {step} (epoch {epoch}); "
                    "the last checkpoint before it is kept. Lower the learning rate, or use "
                    "another recipe or seed."
                )

    def _summarize(self, state: TrainState, values) -> list[dict[str, float]]:
        """Means of the epoch's values, and the metrics of the validation slices, of each run."""
        if all(run.ended for run in self.runs):
            return [{} for _ in self.runs]
        params, stats = state.params, state.stats
        sums = self.program.zero_sums(max(len(run.val) for run in self.runs))
        size = self.program.config.batch_size
        batches = [padded_batches(run.val, size, self._val_steps) for run in self.runs]
        for parts in zip(*batches, strict=True):
            places, weights = zip(*parts, strict=True)
            index = places[0] if self.program.lanes is None else np.stack(places)
            batch = self.arrays.images[index], self.arrays.masks[index]
            sums = self.program.accumulate(
                sums, params, stats, *batch, self._array(weights, jnp.float32)
            )
        records = []
        for i in range(len(self.runs)):
            train = {f"train_{name}": float(column[i].mean()) for name, column in values.items()}
            train["learning_rate"] = float(values["learning_rate"][i, -1])
            train["grad_norm"] = train.pop("train_grad_norm")
            del train["train_learning_rate"]
            scores = self._one(sums, i).summarize(self.runs[i].val_patients)
            records.append(train | {f"val_{name}": scores[name] for name in VALIDATION})
        return records

    def _calibrated(self, run: Run, teacher: Teacher) -> float:
        """The weight at which distillation is ``distill_ratio`` of the loss of new parameters."""
        config = self.program.config
        fresh = self.program.start(jnp.asarray(run.seed, jnp.uint32))
        order = epoch_order(run.train, run.seed, 0, config.batch_size)[:_CALIBRATION_BATCHES]
        values = [
            self.program.divergence(
                fresh.params,
                fresh.stats,
                self.arrays.images[index],
                self.arrays.masks[index],
                teacher,
            )
            for index in order
        ]
        task, divergence = np.mean(jax.device_get(values), axis=0).tolist()
        ratio: Any = config.distill_ratio
        return losses.distillation_weight(ratio, task, divergence, config.temperature)

    def _end_epoch(self, run: Run, epoch: int, record: dict[str, float], seconds: float) -> bool:
        """Decides on the rate, the best epoch and the end; True if this epoch is the best."""
        if run.failed:
            return False
        value = record["val_loss"]
        if not np.isfinite(value):
            run.failed, run.ended = True, f"val_loss is {value} after epoch {epoch}."
            return False
        run.epoch, run.seconds = epoch, run.seconds + seconds
        if self.program.config.schedule.startswith("plateau"):
            run.plateau = run.plateau.update(value)
        run.stopping = run.stopping.update(value)
        if run.stopping.stopped:
            run.ended = "early stopping"
        line = {"epoch": epoch, **record, "best_epoch": run.stopping.best_epoch}
        run.folder.append(line | {"seconds": round(seconds, 3)})
        self.listener.epoch(run.name, line)
        return run.stopping.is_best

    def _keep(self, improved: list[bool], new: Any, old: Any) -> Any:
        """The new tree for the runs that improved, the old one for the others."""
        if self.program.lanes is None:
            # A copy: the step donates the state's arrays.
            return jax.tree.map(jnp.copy, new) if improved[0] else old
        return self._select(improved, new, old)

    def _select(self, on: Any, new: Any, old: Any) -> Any:
        """The new tree in the lanes that are ``on``, the old one in the others."""
        on = jnp.asarray(on)

        def select(a, b):
            return jnp.where(on.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

        return jax.tree.map(select, new, old)

    def _one(self, tree: Any, i: int) -> Any:
        """The tree of run i."""
        return tree if self.program.lanes is None else jax.tree.map(lambda a: a[i], tree)

    def _array(self, values: Sequence[Any], dtype: Any):
        """A value per run, as the program takes it."""
        (one, *_) = values
        return jnp.asarray(one if self.program.lanes is None else np.stack(values), dtype)

    def _runs_first(self, column) -> np.ndarray:
        column = np.asarray(column)
        return column if self.program.lanes is not None else column[None]


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Values of single steps, of one run or of lanes -> (lanes, steps) arrays."""
    rows = jax.device_get(rows)
    columns = {name: np.stack([row[name] for row in rows], axis=-1) for name in rows[0]}
    return {name: np.atleast_2d(column) for name, column in columns.items()}
