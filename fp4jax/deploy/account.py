"""Account: what an export wrote, layer by layer, and how it was checked."""

import collections
import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """What was written for one layer.

    Attributes:
        path: of the layer, dotted.
        kind: Flax's class.
        shape: of its float kernel.
        written: how it runs, such as "FP4 product" or "float32".
        nbytes: of its kernel in the file.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    written: str
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Account:
    """What an export wrote; ``str(account)`` is a table of all layers.

    Example:
        >>> row = LayerRow("head", "Linear", (16, 2), "float32", 128)
        >>> print(Account(Path("m.onnx"), "onnx-portable", 2048, 128, (row,), "checked"))
        head  Linear  16 x 2  float32  128 bytes
        1 layers: 1 float32
        m.onnx: onnx-portable, 2,048 bytes (128 as float32 parameters); checked
    """

    path: Path
    target: str
    nbytes: int
    # of all parameters as float32
    float_bytes: int
    layers: tuple[LayerRow, ...]
    # how it was compared with the packed model
    checked: str

    def __str__(self) -> str:
        return "\n".join([*self.table(), self.summary()])

    def table(self) -> list[str]:
        """A line for each layer."""
        cells = [
            (
                row.path or "(the model)",
                row.kind,
                " x ".join(map(str, row.shape)),
                row.written,
                f"{row.nbytes:,} bytes",
            )
            for row in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]

    def summary(self) -> str:
        """How many layers run how, sizes, and the comparison."""
        counts = collections.Counter(row.written for row in self.layers)
        kinds = ", ".join(f"{n} {written}" for written, n in counts.items())
        return (
            f"{len(self.layers)} layers: {kinds}\n{self.path}: {self.target}, {self.nbytes:,} bytes"
            f" ({self.float_bytes:,} as float32 parameters); {self.checked}"
        )
