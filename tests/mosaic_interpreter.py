"""Teaches the interpreter of Mosaic GPU kernels what it lacks: products with block scales.

Mosaic's interpreter (JAX 0.11 and later) executes copies, barriers, tensor memory and products
step by step and looks for races, but knows no block scales. Two of its operations are extended
here, in terms of its own:

    the copy of block scales to tensor memory    puts byte (row % 32) * 16 + (row // 32) * 4 + block
                                                 of a tile of 128 x 4 at (row, block)
    the product                                  reads block scales, too (the race detector is
                                                 told), and multiplies its operands with them

These are internals of JAX; :func:`reason_to_skip` says where they are not as they are expected.
"""

import contextlib
import threading
from unittest import mock

import jax
import numpy as np
import pytest

_KNOWN = ((0, 12),)


def reason_to_skip() -> str | None:
    """Why kernels cannot be interpreted with this JAX; None if they can."""
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if version not in _KNOWN:
        return f"Mosaic's interpreter is used as it is in JAX 0.12, this is {jax.__version__}"
    try:
        from jax.experimental.pallas import mosaic_gpu  # noqa: F401
    except ImportError as error:
        return f"Mosaic GPU cannot be imported: {error}"
    return None


@contextlib.contextmanager
def race_detection():
    """Interpreter parameters, and a function that says whether races were found since."""
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter
    from jax.experimental.pallas import mosaic_gpu as plgpu

    interpreter.reset_gpu_interpret_mode_state()
    try:
        yield (
            plgpu.InterpretGPUParams(detect_races=True),
            lambda: interpreter.get_races().races_found,
        )
    finally:
        interpreter.reset_gpu_interpret_mode_state()


@contextlib.contextmanager
def block_scales():
    """Within it, kernels with block scales can be interpreted."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks, shared_memory
    from jax.experimental.pallas import mosaic_gpu as plgpu
    from jax.experimental.pallas.mosaic_gpu import async_copy_smem_to_tmem

    # What an operation that is being executed makes of what it reads, by buffer. Operations are
    # executed in the thread that issues them.
    reading = threading.local()
    read = shared_memory.GPUSharedMemory.get_buffer_content

    def read_as_told(self, key, *args, **kwargs):
        content, *rest = read(self, key, *args, **kwargs)
        change = getattr(reading, "changes", {}).get(key)
        return (content if change is None else change(content), *rest)

    @contextlib.contextmanager
    def changing(changes):
        reading.changes = changes
        try:
            yield
        finally:
            reading.changes = {}

    class Copy(gpu_callbacks.TcGen05Copy):
        def __call__(self, *args):
            with changing({self.smem_key: in_order}):
                return super().__call__(*args)

    class Product(gpu_callbacks.TcGen05Mma):
        def __call__(self, pipeline_clock, tma_thread_id):
            if self.a_scale_key is None:
                return super().__call__(pipeline_clock, tma_thread_id)
            memory = gpu_callbacks._get_shared_memory()
            clock = memory.get_clock(self.thread)
            if pipeline_clock is not None:
                clock.update(pipeline_clock)
            clock.inc(tma_thread_id)
            a, b = (
                self._scales(memory, clock, key, transforms)
                for key, transforms in (
                    (self.a_scale_key, self.a_scale_transforms),
                    (self.b_scale_key, self.b_scale_transforms),
                )
            )
            changes = {
                self.a_key: lambda x: x.astype(np.float32) * a,
                self.b_key: lambda x: x.astype(np.float32) * b.T,
            }
            plain = {"a_scale_key": None, "b_scale_key": None}
            plain = gpu_callbacks.TcGen05Mma(**{**vars(self), **plain})
            with changing(changes):
                return plain(pipeline_clock, tma_thread_id)

        def _scales(self, memory, clock, key, transforms):
            access = memory.access(key, transforms)
            scales, *_ = memory.get_buffer_content(key, access, self.thread)
            gpu_callbacks.get_races().check_read(
                self.thread, clock.generic_clock, key, access, source_info=self.source_info
            )
            return np.repeat(scales.astype(np.float32), 16, axis=1)

    def copy_scales(smem, tmem):
        # The interpreter's copy is between equal shapes; its result is put in order above.
        async_copy_smem_to_tmem(smem.reshape(tmem.shape), tmem)

    copy = gpu_callbacks.async_copy_smem_to_tmem

    def copy_unreshaped(*, smem_transforms, **kwargs):
        kept = tuple(t for t in smem_transforms if "Reshape" not in type(t).__name__)
        return copy(smem_transforms=kept, **kwargs)

    with (
        mock.patch.object(shared_memory.GPUSharedMemory, "get_buffer_content", read_as_told),
        mock.patch.object(gpu_callbacks, "TcGen05Copy", Copy),
        mock.patch.object(gpu_callbacks, "TcGen05Mma", Product),
        mock.patch.object(gpu_callbacks, "async_copy_smem_to_tmem", copy_unreshaped),
        mock.patch.object(plgpu, "async_copy_scales_to_tmem", copy_scales),
    ):
        yield


def in_order(lines: np.ndarray) -> np.ndarray:
    """(128, blocks) of scales from the bytes of their tiles of 128 rows x 4 blocks.

    As tcgen05.cp.32x128b and tcgen05.mma take them, one tile after the other: a copy brings
    16 bytes to each of 32 lanes, as four columns of 32 bits; a column holds 32 rows, and the
    four bytes of a lane the scales of four blocks.
    """
    tiles = lines.reshape(-1, 512)
    row, block = np.ogrid[:128, : 4 * len(tiles)]
    lane, column, byte = row % 32, row // 32, block % 4
    return tiles[block // 4, 16 * lane + 4 * column + byte]
