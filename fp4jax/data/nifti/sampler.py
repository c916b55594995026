"""PatchSampler: batches of patches for training, each a function of (seed, epoch, step) alone."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fp4jax.core.typing import Float, UInt8
from fp4jax.data.nifti.labels import unpack_bits
from fp4jax.data.nifti.pool import check_workers, ordered
from fp4jax.data.nifti.prepare import Prepared
from fp4jax.data.nifti.volume_set import VolumeSet

_ORDER, _PATCH = 0, 1  # streams of random numbers
_DRAWS = 6  # of each patch
_MOST_WORKERS = 8

Batch = tuple[Float[np.ndarray, "b x y z c"], UInt8[np.ndarray, "b x y z k"]]


class PatchSampler:
    """Random patches of the volumes of a set, balanced between regions and the rest.

    An epoch takes ``patches_per_case`` patches of every case, in an order drawn anew for each
    epoch; where the batch size does not divide them, the last batch goes on with the epoch's first
    cases. With probability ``foreground`` a patch is centred on a voxel of a region, all regions
    that the case has being equally likely and so are the voxels of each; else it lies anywhere in
    the box around the brain with equal probability. Patches are moved inwards at the box' faces;
    where they are larger than the box they are padded with zeros on both sides.

    The batch of a step depends on the seed, the epoch and the step alone: not on the number of
    threads or on earlier batches, so that a training that was killed goes on as if it had not been.

    Args:
        volumes: the set; its cache makes patches cheap. All cases used need a label map.
        indices: which cases; None means all.
        patch_size: voxels along x, y, z; (h, w, 1) gives axial slices.
        batch_size: patches in a batch.
        foreground: probability of a patch around a region, 0 to 1.
        seed: of everything drawn.
        patches_per_case: patches of each case in an epoch.
        workers: threads; None means one for each core, at most 8.
        prefetch: batches that are made ahead; None means two for each thread.

    Raises:
        ValueError: a number out of its range, or a case without a label map.

    Example::

        sampler = PatchSampler(volumes, split.train, (64, 64, 64), batch_size=2, seed=1)
        for epoch in range(100):
            for images, targets in sampler.batches(epoch):
                state, metrics = train_step(state, images, targets)
    """

    def __init__(
        self,
        volumes: VolumeSet,
        indices: Iterable[int] | None = None,
        patch_size: Sequence[int] = (64, 64, 64),
        batch_size: int = 2,
        foreground: float | int = 0.5,
        seed: int = 0,
        *,
        patches_per_case: int = 1,
        workers: int | None = None,
        prefetch: int | None = None,
    ):
        self.volumes = volumes
        self.indices = tuple(int(i) for i in (range(len(volumes)) if indices is None else indices))
        self.patch_size = _checked_size(patch_size)
        if not 0 <= foreground <= 1:
            raise ValueError(f"foreground is {foreground}; a probability from 0 to 1 is needed.")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("patches_per_case", patches_per_case, 1),
            ("prefetch", 1 if prefetch is None else prefetch, 1),
        ):
            if isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; use an integer of at least {least}.")
        self.batch_size, self.foreground, self.seed = batch_size, float(foreground), seed
        self.patches_per_case = patches_per_case
        self.workers = check_workers(workers, _MOST_WORKERS)
        self.prefetch = 2 * self.workers if prefetch is None else prefetch
        self._check_cases()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.indices) * self.patches_per_case // self.batch_size)

    def batch(self, epoch: int, step: int, rows: slice = slice(None)) -> Batch:
        """Images float32 (b, x, y, z, c) and targets uint8 (b, x, y, z, k) of one step.

        Args:
            epoch, step: both from 0.
            rows: the part of the batch that is wanted; the rest of it is neither read nor cut.

        Raises:
            ValueError: a step that the epoch does not have; files that cannot be used.
        """
        if not 0 <= step < self.steps_per_epoch or epoch < 0:
            raise ValueError(
                f"There is no step {step} of epoch {epoch}; epochs count from 0, and steps from 0 "
                f"to {self.steps_per_epoch - 1}."
            )
        order = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(
            np.repeat(self.indices, self.patches_per_case)
        )
        first = step * self.batch_size
        places = np.arange(first, first + self.batch_size)[rows]
        chosen = np.take(order, places, mode="wrap")
        rng = np.random.default_rng((self.seed, _PATCH, epoch, step))
        # As many for every patch, so that no case's content shifts the others' patches.
        draws = rng.random((self.batch_size, _DRAWS))[rows]
        images = np.zeros((len(places), *self.patch_size, len(self.volumes.modalities)), np.float32)
        bits = np.zeros((len(places), *self.patch_size), np.uint8)
        for b, i in enumerate(chosen.tolist()):
            prepared = self.volumes.prepared(i)
            self._copy(prepared, self._corner(prepared, draws[b]), images[b], bits[b])
        return images, unpack_bits(bits, len(self.volumes.regions))

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``start_step`` on, made ahead by threads.

        The threads end with the iterator, however it ends.

        Raises:
            ValueError: a step that the epoch does not have (the one after the last is allowed and
                gives nothing); files that cannot be used.
        """
        if not 0 <= start_step <= self.steps_per_epoch or epoch < 0:
            raise ValueError(
                f"Cannot start at step {start_step} of epoch {epoch}; epochs count from 0, and "
                f"steps from 0 to {self.steps_per_epoch}."
            )
        steps = range(start_step, self.steps_per_epoch)
        return ordered(lambda s: self.batch(epoch, s), steps, self.workers, self.prefetch)

    def _corner(self, prepared: Prepared, draws: np.ndarray) -> list[int]:
        """The patch's first voxel in the box, as x, y, z; negative where zeros are padded."""
        nz, nx, ny = prepared.image.shape[:3]
        box = (nx, ny, nz)
        balanced, region, voxel, *uniform = draws.tolist()
        present = [voxels for voxels in prepared.foreground if len(voxels)]
        room = [n - size for n, size in zip(box, self.patch_size, strict=True)]
        if balanced < self.foreground and present:
            voxels = present[int(region * len(present))]
            at = int(voxels[int(voxel * len(voxels))])
            z, rest = divmod(at, nx * ny)
            x, y = divmod(rest, ny)
            start = [v - size // 2 for v, size in zip((x, y, z), self.patch_size, strict=True)]
        else:
            start = [int(u * (max(r, 0) + 1)) for u, r in zip(uniform, room, strict=True)]
        return [
            min(max(s, 0), r) if r >= 0 else -(-r // 2) for s, r in zip(start, room, strict=True)
        ]

    def _copy(
        self, prepared: Prepared, corner: list[int], image: np.ndarray, bits: np.ndarray
    ) -> None:
        nz, nx, ny = prepared.image.shape[:3]
        source, target = [], []
        for start, size, n in zip(corner, self.patch_size, (nx, ny, nz), strict=True):
            low, high = max(start, 0), min(start + size, n)
            source.append(slice(low, high))
            target.append(slice(low - start, high - start))
        sx, sy, sz = source
        tx, ty, tz = target
        image[tx, ty, tz] = np.moveaxis(prepared.image[sz, sx, sy], 0, 2)
        if prepared.bits is not None:
            bits[tx, ty, tz] = np.moveaxis(prepared.bits[sz, sx, sy], 0, 2)

    def _check_cases(self) -> None:
        wrong = [i for i in self.indices if not 0 <= i < len(self.volumes)]
        if wrong or not self.indices:
            raise ValueError(
                f"indices are {self.indices[:5]}...; give one or more from 0 to "
                f"{len(self.volumes) - 1}."
            )
        unlabelled = [i for i in self.indices if self.volumes.cases[i].label is None]
        if unlabelled:
            raise ValueError(
                f"Case {self.volumes.cases[unlabelled[0]].id} and {len(unlabelled) - 1} others "
                "have no label map to train with; leave them out: indices=[i for i, case in "
                "enumerate(volumes.cases) if case.label is not None]."
            )


def _checked_size(size: Sequence[int]) -> tuple[int, int, int]:
    if len(size) != 3 or any(isinstance(n, bool) or n < 1 for n in size):
        raise ValueError(
            f"patch_size is {size!r}; give three numbers of voxels, (64, 64, 64) or, for slices, "
            "(240, 240, 1)."
        )
    return int(size[0]), int(size[1]), int(size[2])
