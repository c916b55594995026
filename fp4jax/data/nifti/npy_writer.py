"""A ``.npy`` file that grows: arrays are appended without ever being in memory together."""

import io
from pathlib import Path

import numpy as np


class NpyWriter:
    """Appends blocks (m, *shape) to a file of shape (n, *shape); the header is written at the end.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "grown.npy"
        >>> with NpyWriter(path, (2,), np.uint8) as file:
        ...     file.append(np.zeros((3, 2), np.uint8))
        ...     file.append(np.ones((1, 2), np.uint8))
        >>> np.load(path).sum(axis=1).tolist()
        [0, 0, 0, 2]
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]):
        self.shape, self.dtype, self.length = shape, np.dtype(dtype), 0
        self._file = path.open("wb")
        self._file.write(self._header())

    def append(self, block: np.ndarray) -> None:
        """Writes m more items."""
        if block.shape[1:] != self.shape or block.dtype != self.dtype:
            raise ValueError(f"{block.dtype} {block.shape}; (m, {self.shape}) {self.dtype} wanted.")
        np.ascontiguousarray(block).tofile(self._file)
        self.length += len(block)

    def _header(self) -> bytes:
        # NumPy pads its headers so that the first dimension may grow to 20 digits in place.
        buffer = io.BytesIO()
        description = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length, *self.shape),
        }
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()

    def __enter__(self) -> "NpyWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()
