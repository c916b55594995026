"""Cuts the subset out of the full files: python -m tests.golden.cut FOLDER_OF_THE_FULL_FILES"""

import sys
from pathlib import Path

import numpy as np

from tests.golden import FOLDER, load

_PUBLIC = "nvfp4_te_ref_public.npz"
_NONFINITE = "nvfp4_te_ref_nonfinite.npz"
# All but fp32_subnormal, which XLA on CPU flushes to zero.
_ALL = [
    "block_range",
    "constant",
    "e2m1_ties",
    "e2m1_ties_ulp",
    "e4m3_ties",
    "grads",
    "heavy",
    "huge",
    "near_fltmax",
    "normal",
    "one_hot",
    "outliers",
    "positive",
    "tile_range",
    "tiny",
    "uniform",
    "zero_blocks",
    "zeros",
]
# Where blocks differ from each other, and codes from block to block.
_LARGE = ["block_range", "e4m3_ties", "near_fltmax", "normal", "tile_range"]
_4O6 = [
    "block_range",
    "e2m1_ties",
    "e4m3_ties",
    "grads",
    "near_fltmax",
    "normal",
    "tiny",
    "zero_blocks",
]

#: file -> (shape and dtype, mode, kinds). A mode has the sides of the full file.
CUT = {
    _PUBLIC: [
        *(("16x16.f32", mode, _ALL) for mode in ("1d", "2d")),
        *(("16x16.bf16", mode, _ALL) for mode in ("1d", "2d", "1d_rht")),
        *(("32x64.f32", mode, _LARGE) for mode in ("1d", "2d")),
        ("32x64.bf16", "1d_rht", _LARGE),
        *(
            ("32x64.f32", mode, _4O6)
            for mode in ("1d_4o6_mse_256", "1d_4o6_mae_256", "1d_4o6_mse_448", "2d_4o6_mse_256")
        ),
    ],
    _NONFINITE: [("32x64.f32", mode, ["nan", "inf"]) for mode in ("1d", "2d")],
}
_ARRAYS = ("codes", "scale_u8", "amax", "deq")


def cut(folder: Path, name: str) -> None:
    """Writes the subset of one file, and checks that it loads as what the full file has."""
    stacks: dict[str, np.ndarray] = {}
    inputs: dict[str, set[str]] = {}
    with np.load(folder / name) as full:
        for group, mode, kinds in CUT[name]:
            inputs.setdefault(group, set()).update(kinds)
            stacks[f"{group}/{mode}/kinds"] = np.array(kinds)
            for side in ("row", "col"):
                for array in _ARRAYS:
                    keys = [f"{kind}.{group}/{mode}/{side}/{array}" for kind in kinds]
                    if keys[0] in full.files:
                        stacks[f"{group}/{mode}/{side}/{array}"] = np.stack([full[k] for k in keys])
        for group, kinds in inputs.items():
            stacks[f"{group}/kinds"] = np.array(sorted(kinds))
            stacks[f"{group}/x"] = np.stack([full[f"{kind}.{group}/x"] for kind in sorted(kinds)])
        np.savez_compressed(FOLDER / name, allow_pickle=False, **stacks)
        load.cache_clear()
        for key, array in load(name).items():
            np.testing.assert_array_equal(array, full[key], key, strict=True)


if __name__ == "__main__":
    for file in CUT:
        cut(Path(sys.argv[1]), file)
        print(file, (FOLDER / file).stat().st_size, "bytes")
