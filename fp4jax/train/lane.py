"""Lane: one run while it is trained, and all that is decided on the host after each epoch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.data import Split
from fp4jax.train.config import RunConfig
from fp4jax.train.early_stopping import EarlyStopping
from fp4jax.train.folder import RunFolder
from fp4jax.train.optimizer import schedule
from fp4jax.train.plateau import Plateau
from fp4jax.train.task import Feed


class DivergedError(RuntimeError):
    """A loss or gradient that is not finite."""


@dataclasses.dataclass
class Lane:
    """A run of a group: what it trains on, how far it is, whether it goes on.

    Lanes of a group may be in different epochs and take different numbers of steps in one.
    """

    config: RunConfig
    folder: RunFolder
    split: Split
    feed: Feed
    plateau: Plateau
    stopping: EarlyStopping
    # finished epochs
    epoch: int = 0
    # values of the steps taken in the epoch that is not finished, by name
    rows: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    # of the epochs that are finished
    seconds: float = 0.0
    # why it takes no further steps: "", "last epoch", "early stopping", or what went wrong
    ended: str = ""
    failed: bool = False

    @classmethod
    def of(cls, config: RunConfig, folder: RunFolder, split: Split, feed: Feed) -> "Lane":
        """A run before its first step."""
        stopping = EarlyStopping(
            patience=None if config.early_stopping == "none" else config.patience,
            warmup=config.warmup_epochs,
            ref=config.early_stopping == "ref",
        )
        plateau = Plateau(ref=config.schedule == "plateau_ref")
        return cls(config, folder, split, feed, plateau, stopping)

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def steps_left(self) -> int:
        """Of the epoch under way; 0 if the run has ended."""
        return 0 if self.ended else self.feed.steps - self.steps_done

    @property
    def steps_done(self) -> int:
        """In the epoch under way."""
        return len(self.rows.get("loss", ()))

    def rates(self) -> np.ndarray:
        """Learning rates of the steps left in this epoch, float32."""
        config, steps = self.config.resolved(), self.feed.steps
        constants: Any = config
        rate = schedule(constants.schedule, constants.learning_rate, config.epochs * steps)
        first = self.epoch * steps
        places = jnp.arange(first + self.steps_done, first + steps, dtype=jnp.int32)
        return np.asarray(jax.vmap(rate)(places)) * np.float32(self.plateau.scale)

    def took(self, values: dict[str, np.ndarray]) -> None:
        """Keeps the values of further steps; the run fails if one of them is not finite."""
        for name, column in values.items():
            self.rows.setdefault(name, []).extend(column.tolist())
        bad = {
            name: int(np.flatnonzero(~np.isfinite(column))[0])
            for name, column in self.rows.items()
            if not np.isfinite(column).all()
        }
        if bad and not self.ended:
            name = min(bad, key=lambda name: (bad[name], name != "loss"))
            step = self.epoch * self.feed.steps + bad[name]
            self.fail(
                f"{name} is {self.rows[name][bad[name]]} at step {step} (epoch {self.epoch + 1}); "
                "the last checkpoint before it is kept. Lower the learning rate, or use another "
                "recipe or seed."
            )

    def fail(self, reason: str) -> None:
        """It takes no further steps and is not evaluated."""
        self.failed, self.ended = True, reason

    def end_epoch(self, scores: dict[str, float], seconds: float) -> tuple[dict[str, Any], bool]:
        """Decides on the rate, the best epoch and the end.

        Args:
            scores: of the validation; empty in an epoch without one.
            seconds: that the epoch took.

        Returns:
            The epoch's record, and whether it is the best so far.
        """
        task = self.config.data
        record = {f"train_{name}": float(np.mean(column)) for name, column in self.rows.items()}
        record["grad_norm"] = record.pop("train_grad_norm")
        record["learning_rate"] = self.rows["learning_rate"][-1]
        del record["train_learning_rate"]
        self.epoch, self.seconds, self.rows = self.epoch + 1, self.seconds + seconds, {}
        best = self._judge(scores.get(task.monitor.name))
        if not self.ended and self.epoch >= self.config.epochs:
            self.ended = "last epoch"
        record |= {f"val_{name}": value for name, value in scores.items()}
        line = {"epoch": self.epoch, **record, "best_epoch": self.best_epoch}
        return line | {"seconds": round(seconds, 3)}, best

    @property
    def best_epoch(self) -> int:
        """The last one of a run that has no patients to choose by."""
        return self.stopping.best_epoch if self.split.val else self.epoch

    @property
    def validates(self) -> bool:
        """Whether the epoch under way ends with a validation."""
        number = self.epoch + 1
        due = number % self.config.validate_every == 0 or number == self.config.epochs
        return due and bool(self.split.val)

    def _judge(self, value: float | None) -> bool:
        if not self.split.val:
            return True
        if value is None:
            return False
        loss = self.config.data.monitor.loss(value)
        if not np.isfinite(loss):
            self.fail(f"val_{self.config.data.monitor.name} is {value} after epoch {self.epoch}.")
            return False
        if str(self.config.schedule).startswith("plateau"):
            self.plateau = self.plateau.update(loss)
        self.stopping = dataclasses.replace(self.stopping, epoch=self.epoch - 1).update(loss)
        if self.stopping.stopped:
            self.ended = "early stopping"
        return self.stopping.is_best

    def progress(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return {
            "run": self.name,
            "epoch": self.epoch,
            # Copies: a checkpoint is written while the next steps add to them.
            "rows": {name: list(column) for name, column in self.rows.items()},
            "seconds": self.seconds,
            "ended": self.ended,
            "failed": self.failed,
            "plateau": self.plateau.to_dict(),
            "early_stopping": self.stopping.to_dict(),
        }

    def load(self, progress: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.epoch, self.seconds = progress["epoch"], progress["seconds"]
        self.rows = {name: list(column) for name, column in progress["rows"].items()}
        self.ended, self.failed = progress["ended"], progress["failed"]
        self.plateau = Plateau.from_dict(progress["plateau"])
        self.stopping = EarlyStopping.from_dict(progress["early_stopping"])
