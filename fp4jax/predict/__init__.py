"""Prediction: a run or a packed file on new slices and volumes; files in, files out.

network = from_run("runs/swin_4m_2d-rht-sr_...")        # or from_file, from_weights
rows = segment_slices(network, Path("slices"), Path("masks"))
cases = segment_volumes(network, Source(Path("new")), "labels")
network = with_mirroring(together([from_run(path) for path in folds_of(run)]))
model, about = packed_run("runs/swin_4m_2d-rht-sr_...")
save_packed("swin.safetensors", model, about)
"""

from fp4jax.predict.about import About as About
from fp4jax.predict.network import (
    Network as Network,
    from_file as from_file,
    from_module as from_module,
    from_run as from_run,
    from_weights as from_weights,
)
from fp4jax.predict.packed_evaluation import evaluate_file as evaluate_file
from fp4jax.predict.packed_files import (
    describe as describe,
    load_packed as load_packed,
    save_packed as save_packed,
)
from fp4jax.predict.packed_runs import packed_run as packed_run, scales_of_x as scales_of_x
from fp4jax.predict.pictures import Pictures as Pictures
from fp4jax.predict.reading import reading_of as reading_of
from fp4jax.predict.several import (
    folds_of as folds_of,
    together as together,
    with_mirroring as with_mirroring,
)
from fp4jax.predict.slices import (
    SegmentedSlice as SegmentedSlice,
    SliceOptions as SliceOptions,
    segment_slices as segment_slices,
)
from fp4jax.predict.timing import Latency as Latency, latency as latency
from fp4jax.predict.volumes import (
    CaseOptions as CaseOptions,
    SegmentedCase as SegmentedCase,
    segment_volumes as segment_volumes,
)
