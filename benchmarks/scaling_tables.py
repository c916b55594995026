"""Tables of how time grows."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.power_fit import Power

#: A power is beyond what is expected by more than this, and twice its standard error.
MARGIN = 0.15


@dataclasses.dataclass(frozen=True)
class Growth:
    """Seconds of a network's step at each size, and their powers, by recipe or peer.

    ``at_most`` is the power that operations have; ``note`` says why a peer is missing.
    """

    network: str
    axis: str
    sizes: Sequence[int]
    seconds: Mapping[str, Sequence[float]]
    powers: Mapping[str, Power]
    at_most: float
    note: str = ""

    def beyond(self, who: str) -> bool:
        """Whether a power is larger than operations explain."""
        power = self.powers[who]
        error = 0.0 if math.isnan(power.error) else power.error
        return power.exponent > self.at_most + MARGIN + 2 * error


def show(growth: Growth) -> None:
    """Prints milliseconds at each size and the power."""
    title = f"{growth.network}: training step, ms, by {growth.axis}"
    table = Table(title=f"{title}; {growth.note}" if growth.note else title, title_justify="left")
    for column in ("", *(f"{size:,}" for size in growth.sizes), "power", "last", "at most", ""):
        table.add_column(column, justify="right" if column else "left")
    for who, seconds in growth.seconds.items():
        power = growth.powers[who]
        error = "" if math.isnan(power.error) else f" ± {power.error:.2f}"
        table.add_row(
            who,
            *(f"{s * 1e3:,.1f}" for s in seconds),
            f"{power.exponent:.2f}{error}",
            f"{power.last:.2f}",
            f"{growth.at_most:g}",
            "beyond" if growth.beyond(who) else "",
        )
    Console(width=120).print(table)
