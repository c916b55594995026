"""What a study should find, stated before it is run, and what it found."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class Expectation:
    """The mean of a metric over the runs of one label lies in a range.

    Attributes:
        arch, scale, label: the runs.
        low, high: of the range.
        source: why that is expected.
        column: of :func:`fp4jax.analysis.results.table`.
        percent: in per cent of the baseline's mean.
    """

    arch: str
    scale: str
    label: str
    low: float | int
    high: float | int
    source: str
    column: str = "test_auprc"
    percent: bool = False

    def check(self, table: "pd.DataFrame") -> tuple[str, str, str] | None:
        """(name, expected, got), None if the table has no such runs.

        Example:
            >>> import pandas as pd
            >>> row = {"arch": "swin", "scale": "4m", "label": "baseline", "test_auprc": 0.8}
            >>> expectation = Expectation("swin", "4m", "baseline", 0.75, 0.83, "own estimate")
            >>> expectation.check(pd.DataFrame([row]))
            ('swin 4m baseline: test_auprc', '0.75 to 0.83 (own estimate)', '0.8: as expected')
        """
        own = table[(table["arch"] == self.arch) & (table["scale"] == self.scale)]
        value = own.loc[own["label"] == self.label, self.column].mean()
        what = f"{self.arch} {self.scale} {self.label}: {self.column}"
        if self.percent:
            value *= 100 / own.loc[own["label"] == "baseline", self.column].mean()
            what += ", % of baseline"
        if value != value:
            return None
        verdict = "as expected" if self.low <= value <= self.high else "outside"
        return what, f"{self.low:g} to {self.high:g} ({self.source})", f"{value:.3g}: {verdict}"
