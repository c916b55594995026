"""Early stopping and the choice of the best epoch: a value that epochs update.

It holds Python numbers only, so that a checkpoint can keep it as JSON; lanes have one each.
"""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stops when ``patience`` epochs in a row after the warm-up brought no progress.

    An epoch is progress if its validation loss is below that of the last progress by more than
    ``min_delta``. The best epoch is the one of the lowest loss, and the first of equals. Epochs
    with a loss that is not finite are neither. Epochs count from 1.

    ``ref=True`` is the reference's rule: patience also counts during the warm-up, so that a run
    can stop in the first epoch after it, and the best epoch is the last one that was progress,
    which need not have the lowest loss.

    Example:
        >>> stopping = EarlyStopping(patience=2, warmup=1)
        >>> for loss in (1.0, 0.5, 0.4995, 0.6):
        ...     stopping = stopping.update(loss)
        >>> stopping.stopped, stopping.best_epoch
        (True, 3)
    """

    # None: never stop, only choose the best epoch
    patience: int | None = 20
    # epochs during which a run is not stopped
    warmup: int = 40
    min_delta: float = 1e-3
    ref: bool = False

    # What changes. The epoch whose weights to keep and its loss; 0 and None before the first.
    epoch: int = 0
    best_epoch: int = 0
    best: float | None = None
    # loss of the last progress
    progress: float | None = None
    bad_epochs: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        for field in ("patience", "warmup"):
            value = getattr(self, field)
            if value is not None and value < 0:
                raise ValueError(
                    f"EarlyStopping.{field} is {value!r}; give a number of epochs >= 0."
                )
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            raise ValueError(
                f"EarlyStopping.min_delta is {self.min_delta!r}; give the fall of the loss that "
                "counts as progress, a finite number >= 0."
            )

    @property
    def is_best(self) -> bool:
        """True if the last epoch is the best so far: keep its weights."""
        return self.epoch > 0 and self.epoch == self.best_epoch

    def update(self, val_loss: float) -> "EarlyStopping":
        """After an epoch with this validation loss; once stopped, nothing changes."""
        if self.stopped:
            return self
        loss, epoch = float(val_loss), self.epoch + 1
        finite = math.isfinite(loss)
        # As the reference rounds it.
        progress = finite and (self.progress is None or -loss > -self.progress + self.min_delta)
        best = progress if self.ref else finite and (self.best is None or loss < self.best)
        counts = self.ref or epoch > self.warmup
        bad = 0 if progress else self.bad_epochs + int(counts)
        exhausted = self.patience is not None and not progress and bad >= self.patience
        return dataclasses.replace(
            self,
            epoch=epoch,
            best_epoch=epoch if best else self.best_epoch,
            best=loss if best else self.best,
            progress=loss if progress else self.progress,
            bad_epochs=bad,
            stopped=exhausted and epoch > self.warmup,
        )

    def to_dict(self) -> dict[str, Any]:
        """Settings and state as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EarlyStopping":
        """The inverse of :meth:`to_dict`."""
        return cls(**values)
