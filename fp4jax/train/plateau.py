"""Learning rate reduction when the validation loss stops falling: a value that epochs update.

It holds Python numbers only, so that a checkpoint can keep it as JSON; lanes have one each.
"""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plateau:
    """torch's ``ReduceLROnPlateau`` on the validation loss; ``scale`` multiplies the rate.

    An epoch is better if ``loss < best * (1 - threshold)``. After more than ``patience`` epochs in
    a row that were not, scale is multiplied by ``factor``; the next ``cooldown`` epochs do not
    count. A loss that is not finite is never better.

    ``ref=True`` repeats a defect of the reference, which maximizes ``-loss`` with a relative
    threshold: ``-loss > -best * (1 + threshold)`` holds for losses up to 0.01 % *worse* than the
    best, which then become the best. A flat or slowly rising loss never lowers the rate.

    Example:
        >>> plateau = Plateau(patience=1)
        >>> for loss in (1.0, 0.9, 0.9, 0.9):
        ...     plateau = plateau.update(loss)
        >>> plateau.scale
        0.5
    """

    factor: float = 0.5
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_scale: float = 0.0
    ref: bool = False

    # What changes. best is None before the first finite loss.
    scale: float = 1.0
    best: float | None = None
    bad_epochs: int = 0
    cooldown_left: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(f"Plateau.factor is {self.factor!r}; give a number between 0 and 1.")
        if not 0 <= self.threshold < 1:
            raise ValueError(
                f"Plateau.threshold is {self.threshold!r}; give the relative improvement that "
                "counts, from 0 to below 1."
            )
        for field in ("patience", "cooldown"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"Plateau.{field} is {getattr(self, field)!r}; give a number of epochs >= 0."
                )
        if not 0 <= self.min_scale <= 1:
            raise ValueError(
                f"Plateau.min_scale is {self.min_scale!r}; give a share of the learning rate, "
                "from 0 to 1."
            )

    def update(self, val_loss: float) -> "Plateau":
        """After an epoch with this validation loss."""
        loss = float(val_loss)
        best, bad, cooldown, scale = self.best, self.bad_epochs, self.cooldown_left, self.scale
        if self._better(loss):
            best, bad = loss, 0
        else:
            bad += 1
        if cooldown > 0:
            cooldown, bad = cooldown - 1, 0
        if bad > self.patience:
            scale, bad, cooldown = max(scale * self.factor, self.min_scale), 0, self.cooldown
        return dataclasses.replace(
            self, scale=scale, best=best, bad_epochs=bad, cooldown_left=cooldown
        )

    def to_dict(self) -> dict[str, Any]:
        """Settings and state as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plateau":
        """The inverse of :meth:`to_dict`."""
        return cls(**values)

    def _better(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return False
        if self.best is None:
            return True
        if self.ref:
            return -loss > -self.best * (1 + self.threshold)
        # |best|, so that the threshold demands an improvement of a negative loss too.
        return loss < self.best - abs(self.best) * self.threshold
