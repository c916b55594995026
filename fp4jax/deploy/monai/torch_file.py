"""A state dict as torch saves it, written without torch: a zip with a pickle and raw storages.

The archive holds ``data.pkl``, ``byteorder``, ``version`` and a file of raw numbers for each
tensor, stored, not compressed, and aligned to 64 bytes, so that torch may map them into memory.
The pickle (protocol 2) rebuilds an ordered dict of names to tensors; all that it calls is
``torch._utils._rebuild_tensor_v2`` and ``collections.OrderedDict``, so that
``torch.load(path, weights_only=True)`` takes it. Pickling needs the functions themselves, so the
opcodes are written here one by one. Source: docs of torch.save, and Python's pickletools.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_ALIGNMENT = 64
#: Of a local header of a zip: fixed part, and id with size of an extra field.
_HEADER, _EXTRA = 30, 4
_STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def write_state_dict(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as ``torch.save(state_dict, path)`` does.

    Args:
        path: of the file.
        arrays: float32 or int64, in torch's layout.

    Raises:
        ValueError: another dtype.
        OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.pt"
        ...     write_state_dict(path, {"bias": np.zeros(3, np.float32)})
        ...     zipfile.ZipFile(path).namelist()
        ['model/data.pkl', 'model/byteorder', 'model/data/0', 'model/version']
    """
    for name, array in arrays.items():
        if array.dtype not in _STORAGES:
            raise ValueError(f"{name} is {array.dtype}; write float32 or int64.")
    little = {n: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for n, a in arrays.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", _pickled(arrays))
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(little.values()):
            _add(archive, f"data/{key}", array.tobytes())
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """A file whose data begin at a multiple of 64 bytes, filled up by an extra field."""
    info = zipfile.ZipInfo(f"model/{name}", (1980, 1, 1, 0, 0, 0))
    assert archive.fp is not None
    begin = archive.fp.tell() + _HEADER + len(info.filename) + _EXTRA
    fill = -begin % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", fill) + b"Z" * fill
    archive.writestr(info, data)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    items = b"".join(_text(n) + _tensor(str(i), a) for i, (n, a) in enumerate(arrays.items()))
    return b"\x80\x02" + _ORDERED_DICT + b"(" + items + b"u."


def _tensor(key: str, array: np.ndarray) -> bytes:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
    kind = _STORAGES[array.dtype].encode()
    identity = [_text("storage"), b"ctorch\n" + kind + b"\n", _text(key), _text("cpu")]
    storage = b"(" + b"".join(identity) + _number(array.size) + b"tQ"
    strides = tuple(s // array.itemsize for s in np.empty(array.shape, array.dtype).strides)
    arguments = storage + _number(0) + _numbers(array.shape) + _numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89" + _ORDERED_DICT + b"tR"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
