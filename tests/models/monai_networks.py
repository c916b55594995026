"""MONAI's networks as tests create them."""

from flax import nnx

from fp4jax import models

# Swin UNETR's second version.
V2 = {"use_v2": True, "patch_merging": "mergingv2"}
# Features of a BasicUNet.
SMALL = (8, 8, 16, 16, 32, 8)


def create(name, **options):
    return models.create(name, rngs=nnx.Rngs(0), **options)
