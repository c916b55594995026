"""Packed models in files, and what they are used for: masks of a folder of slices.

save_packed(path, model, about)            a safetensors file, no pickles
model = load_packed(path)                  the model again; describe(path) says what it is
model, about = packed_run(folder)          the best epoch of a finished run, packed
segment(model, about, source, out)         masks, overlays and a table
"""

import importlib
from typing import TYPE_CHECKING

from fp4jax.export.about import About as About
from fp4jax.export.files import (
    describe as describe,
    load_packed as load_packed,
    save_packed as save_packed,
)

if TYPE_CHECKING:
    from fp4jax.export.runs import packed_run as packed_run
    from fp4jax.export.segmentation import Options as Options, segment as segment

# Files are read and written without the trainer and the readers of slices.
_ON_FIRST_USE = {"Options": "segmentation", "segment": "segmentation", "packed_run": "runs"}


def __getattr__(name: str):
    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module(f"fp4jax.export.{_ON_FIRST_USE[name]}"), name)
    raise AttributeError(f"module 'fp4jax.export' has no attribute {name!r}")
