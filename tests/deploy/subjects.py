"""Small packed models with static scales, each made once for all tests."""

import functools
import resource
from contextlib import contextmanager

from fp4jax import nnx as fp4nnx
from fp4jax.deploy import Subject
from fp4jax.predict import About

_OPTIONS = {
    "vit": {"dim": 32, "depth": 1, "heads": 2, "patch": 8},
    "unet": {"channels": (8, 20), "strides": (2,), "num_res_units": 1},
    "basic_unet": {"features": (8, 16, 16, 16, 20, 8)},
    "swin_unetr": {"feature_size": 12, "depths": (1, 1, 1, 1)},
}


def about_of(arch: str, recipe: str = "", spatial_dims: int = 2) -> About:
    swin = 64 if spatial_dims == 2 else (32, 32, 64)
    size = {"vit": 16, "unet": 16, "basic_unet": 32, "swin_unetr": swin}[arch]
    return About(
        arch,
        "500k" if arch == "vit" else "monai",
        in_channels=2,
        image_size=size,
        spatial_dims=spatial_dims,
        options=_OPTIONS[arch],
        recipe=recipe,
        threshold=0.25,
        channels=("flair", "t1"),
        regions=("lesion",),
        data="phantom",
        digest="ab" * 32,
        patients={"train": ("1", "2"), "val": ("3",), "test": ("4",)},
    )


@functools.cache
def subject(arch: str, recipe: str, *, static: bool = True, spatial_dims: int = 2) -> Subject:
    about = about_of(arch, recipe, spatial_dims)
    model = about.create()
    fp4nnx.apply_recipe(model, recipe, keep=list(model.high_precision), verbose=False)
    model.eval()
    if static:
        # Without the run that calibrates: any numbers do.
        fp4nnx.expect_static(model)
        paths = fp4nnx.static_amaxes(model)
        fp4nnx.set_static_amaxes(model, {path: 1.5 + i for i, path in enumerate(paths)})
    return Subject(fp4nnx.pack(model), about)


@contextmanager
def full_disk(nbytes: int = 1000):
    """No file can grow beyond some bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
