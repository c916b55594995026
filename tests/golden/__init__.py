"""A subset of the golden NVFP4 vectors, so that a bare clone tests TransformerEngine's bits.

A file holds stacks: ``<shape>.<dtype>/<mode>/<side>/<array>`` has the kinds of input of
``<shape>.<dtype>/<mode>/kinds`` along its first axis, ``<shape>.<dtype>/x`` those of
``<shape>.<dtype>/kinds``. :func:`load` gives the arrays their names in the full files back.
"""

import functools
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


class Vectors(dict[str, np.ndarray]):
    """Arrays by key, as ``np.load`` gives them."""

    @property
    def files(self) -> list[str]:
        return list(self)


@functools.cache
def load(name: str) -> Vectors:
    """The subset of a file of golden vectors, under the full file's keys."""
    found = Vectors()
    with np.load(FOLDER / name) as stacks:
        for key in stacks.files:
            group, *rest = key.split("/")
            if rest[-1] == "kinds":
                continue
            kinds = stacks["/".join([group, *rest[:1], "kinds"] if rest[1:] else [group, "kinds"])]
            for kind, array in zip(kinds, stacks[key], strict=True):
                found["/".join([f"{kind}.{group}", *rest])] = array
    for key in [key for key in found if key.endswith("/codes")]:
        codes = found[key]
        found[key.replace("/codes", "/packed")] = codes[:, 0::2] | codes[:, 1::2] << 4
    return found
