"""Subject: the model that is taken out of JAX, and what is known of it."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
from flax import nnx

from fp4jax.core.typing import Float
from fp4jax.deploy.scores import Score, scores_of
from fp4jax.nnx.packed_files import check_codes, is_packed
from fp4jax.nnx.packing import quantized_layers
from fp4jax.predict.about import About
from fp4jax.predict.packed_files import describe, load_packed
from fp4jax.predict.packed_runs import pack_run, run_model

_LOG = logging.getLogger(__name__)
#: In which files compute.
FLOAT = "float32"


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model in evaluation mode, packed where its recipe quantizes weights.

    Attributes:
        model: the module.
        about: how to make it, and how its images and scores are meant.
        scores: of its test patients; empty if they are not known.
    """

    model: nnx.Module
    about: About
    scores: tuple[Score, ...] = ()

    def __post_init__(self) -> None:
        check_codes(self.model)
        quantized = any(recipe.quantizes for _, recipe in quantized_layers(self.model))
        if quantized and not is_packed(self.model):
            raise ValueError(
                "the model has a recipe and is not packed; export what fp4jax.nnx.pack(model) "
                "returns."
            )
        if self.about.dtype != FLOAT:
            raise ValueError(
                f"the model computes in {self.about.dtype}, and files are written in float32: "
                "pack it with About(dtype='float32'), whose parameters are the same."
            )

    @property
    def image(self) -> tuple[int, ...]:
        """Shape of one image as the model takes it, (*space, channels)."""
        return image_shape(self.about)

    def examples(self, count: int) -> Float[np.ndarray, "b ..."]:
        """Images of unlike ranges to compare two forms of the model on: normal, of growing sd."""
        rng = np.random.default_rng(0)
        images = rng.standard_normal((count, *self.image), np.float32)
        scales = np.float32(2) ** np.arange(count, dtype=np.float32)
        return images * scales.reshape(-1, *(1,) * len(self.image))


def image_shape(about: About) -> tuple[int, ...]:
    """Shape of one image as a model takes it, (*space, channels).

    Example:
        >>> image_shape(About("cnn", "500k", image_size=64))
        (64, 64, 3)
    """
    size, dims = about.image_size, about.spatial_dims
    space = (size,) * dims if isinstance(size, int) else tuple(size)
    return (*space, about.in_channels)


def read_subject(path: str | Path, *, recipe: str | None = None, static: bool = False) -> Subject:
    """The best epoch of a run, packed by its recipe, or a packed file.

    Files are written in float32: a model that was trained in bfloat16 has the same parameters, and
    is read to compute in float32, which is said.

    Args:
        path: a run's folder, or a file of :func:`fp4jax.predict.save_packed`.
        recipe: of a run: another recipe than its own; "baseline" for none.
        static: of a run: with the static scales that it was calibrated to. A file has its own.

    Raises:
        ValueError: no run and no packed file, or a recipe that cannot be packed.
        OSError: it cannot be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(
            f"there is no {path}; name a run's folder (fp4jax train), a packed file "
            "(fp4jax predict --save), or a folder that fp4jax export wrote as "
            "compressed-tensors or modelopt."
        )
    if not path.is_dir():
        if recipe is not None:
            raise ValueError(f"recipe is for runs, but {path} is no folder: it is packed already.")
        about = _in_float32(path, describe(path))
        return Subject(load_packed(path, about), about)
    model, about = run_model(path, recipe=recipe, static=static, dtype=FLOAT)
    # The scores are of the run's own recipe and of dynamic scales.
    scores = scores_of(path) if recipe is None and not static else ()
    if not any(recipe.quantizes for _, recipe in quantized_layers(model)):
        return Subject(model, about, scores)
    return Subject(pack_run(path, model, about), about, scores)


def _in_float32(path: Path, about: About) -> About:
    """What makes the model, computing in float32."""
    if about.dtype != FLOAT:
        _LOG.warning("%s computes in %s, and is read in %s.", path, about.dtype, FLOAT)
    return dataclasses.replace(about, dtype=FLOAT)
