"""The target "model-card": README.md and model.safetensors, a repository of the hub's."""

from pathlib import Path

from fp4jax import models
from fp4jax.deploy.account import Account
from fp4jax.deploy.card.header import header
from fp4jax.deploy.card.text import body
from fp4jax.deploy.layer_rows import float_bytes, layer_rows
from fp4jax.deploy.subject import Subject
from fp4jax.deploy.targets import Options, Target, register_target
from fp4jax.extras import Extra
from fp4jax.files import replacing_folder
from fp4jax.nnx.packed_files import is_packed
from fp4jax.packed import tensors
from fp4jax.predict.packed_files import load_packed, save_packed


def register() -> None:
    """Makes the target known."""
    summary = "README.md and the packed file, for the Hugging Face hub"
    register_target(Target("model-card", summary, write))


def write(subject: Subject, path: Path, options: Options) -> Account:
    """Writes README.md, and beside it the packed file, or torch's names without a recipe.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    del options
    with replacing_folder(path, keep_existing=True) as temporary:
        (temporary / "README.md").write_text(card_text(subject))
        weights = temporary / "model.safetensors"
        if is_packed(subject.model):
            save_packed(weights, subject.model, subject.about)
            load_packed(weights)
        else:
            tensors.write(weights, models.to_torch(subject.model), {"format": "pt"})
    return Account(
        path,
        "model-card",
        sum(file.stat().st_size for file in path.iterdir()),
        float_bytes(subject.model),
        layer_rows(subject.model, "packed FP4 kernel"),
        "the packed file was read back",
    )


def card_text(subject: Subject, *, front: bool = True) -> str:
    """The card; ``front``: with its YAML header, which only the hub reads.

    Example:
        >>> from fp4jax.predict import About
        >>> about = About("cnn", "500k", image_size=8, options={"stages": 2, "channels": 16})
        >>> text = card_text(Subject(about.create(), about))
        >>> text.splitlines()[:2]
        ['---', 'library_name: fp4jax']
    """
    if not front:
        return body(subject)
    with Extra("deploy"):
        import yaml

    top = yaml.safe_dump(header(subject), sort_keys=False, allow_unicode=True)
    return f"---\n{top}---\n\n{body(subject)}"
