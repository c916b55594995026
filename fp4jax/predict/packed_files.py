"""save_packed, load_packed and describe: files of packed models that say what makes the model.

As :func:`fp4jax.nnx.save_packed` writes them, with an :class:`~fp4jax.predict.About` beside the
layers, under "about".
"""

from pathlib import Path

from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.packed import read_records
from fp4jax.predict.about import About


def save_packed(path: str | Path, model: nnx.Module, about: About | None = None) -> Path:
    """Writes a packed model; an existing file is replaced, in one step.

    Args:
        path: of the file, by custom with the ending ``.safetensors``.
        model: what :func:`fp4jax.nnx.pack` returned.
        about: what makes the model, so that the file can be loaded without a template.

    Raises:
        ValueError: a model that is not packed, or whose variables are shapes only.
        OSError: it cannot be written.
    """
    return fp4nnx.save_packed(path, model, None if about is None else {"about": about.to_json()})


def load_packed(path: str | Path, template: nnx.Module | About | None = None) -> nnx.Module:
    """The model that :func:`save_packed` wrote, in evaluation mode.

    Args:
        path: of the file.
        template: a model of the same kind, see :func:`fp4jax.nnx.load_packed`, or what makes one.
            Default: what the file says.

    Raises:
        ValueError: a damaged file, one of another kind, or a template that does not fit it.
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> about = About("cnn", "500k", image_size=32, options={"stages": 2, "channels": 16})
        >>> packed = fp4nnx.pack(fp4nnx.apply_recipe(about.create(), "full"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_packed(f"{folder}/cnn.safetensors", packed, about)
        ...     same = load_packed(path)
        >>> type(same).__name__
        'CNN'
    """
    template = template or describe(path)
    if isinstance(template, About):
        template = nnx.eval_shape(template.create)
    return fp4nnx.load_packed(path, template)


def describe(path: str | Path) -> About:
    """What a file says about its model.

    Raises:
        ValueError: it says nothing, or is no packed model.
    """
    metadata = read_records(path).metadata
    if "about" not in metadata:
        raise ValueError(
            f"{path} does not say how to make its model; pass load_packed a template of it."
        )
    try:
        return About.from_json(metadata["about"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} describes no model: {error}.") from error
