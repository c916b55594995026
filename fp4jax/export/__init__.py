"""Packed models in files, and what they are used for: masks of a folder of slices.

save_packed(path, model, about)            a safetensors file, no pickles
model = load_packed(path)                  the model again; describe(path) says what it is
model, about = packed_run(folder)          the best epoch of a finished run, packed
segment(model, about, source, out)         masks, overlays and a table
"""

from fp4jax.export.about import About as About
from fp4jax.export.files import (
    describe as describe,
    load_packed as load_packed,
    save_packed as save_packed,
)
from fp4jax.export.runs import packed_run as packed_run
from fp4jax.export.segmentation import Options as Options, segment as segment
