"""The text of a model card, after its YAML header."""

from collections.abc import Iterator
from typing import Any

from flax import nnx

from fp4jax.core.spec import TensorSpec
from fp4jax.deploy.subject import Subject
from fp4jax.nnx.packing import quantized_layers
from fp4jax.nnx.slots import layers
from fp4jax.packed.kernel import PackedKernel
from fp4jax.predict.about import About
from fp4jax.version import __version__

_NAMES = {"auprc": "average precision (AUPRC) of all pixels", "dice": "Dice, mean of the patients"}


def body(subject: Subject) -> str:
    """Markdown: what it is, data, scores, what runs in FP4, use, limits."""
    about = subject.about
    parts = {
        "Data": _data(about),
        "Scores": _scores(subject),
        "What runs in FP4": _precision(subject.model),
        "Images": _images(subject),
        "Limits": _limits(about),
    }
    title = f"# {about.run or about.arch}\n\n{_first(subject)}"
    return "\n\n".join([title, *(f"## {name}\n\n{text}" for name, text in parts.items())]) + "\n"


def _first(subject: Subject) -> str:
    about = subject.about
    return (
        f"A {about.arch} ({about.scale}) that segments {', '.join(about.regions) or 'an object'} "
        f"in {about.spatial_dims}D, trained with the quantization recipe `{about.recipe or 'none'}`"
        f" by fp4jax {__version__}: its FP4 numbers are NVFP4's, elements E2M1, a scale E4M3 for "
        "16 of them, and one float32 scale for a tensor."
    )


def _data(about: About) -> str:
    lines = [f"- data set: {about.data or 'not known'}"]
    if about.digest:
        lines.append(f"- fingerprint of the data (SHA-256): `{about.digest}`")
    if about.patients:
        parts = [f"{len(ids)} {part}" for part, ids in about.patients.items()]
        lines.append(f"- split by patients: {', '.join(parts)}")
    else:
        lines.append("- split: not known")
    return "\n".join(lines)


def _scores(subject: Subject) -> str:
    if not subject.scores:
        return (
            "Not known. `fp4jax evaluate FILE --root FOLDER` scores the packed file "
            "on patients that it was not trained on."
        )
    lines = [
        f"- {_NAMES.get(score.name, score.name)}: {score} of {score.patients} test patients"
        for score in subject.scores
    ]
    why = (
        "Intervals are of the bootstrap over test patients. They do not say what training with "
        f"another seed would give. Dice is at the threshold {subject.about.threshold:g}."
    )
    return "\n".join([*lines, "", why])


def _precision(model: nnx.Module) -> str:
    recipes = {layer.path: recipe.fprop for layer, recipe in quantized_layers(model)}
    rows = [
        f"| `{layer.path or 'the model'}` | {layer.kind.__name__} | {cells} |"
        for layer in layers(model)
        for cells in [_cells(layer.module.kernel, recipes.get(layer.path))]
    ]
    head = ["| layer | kind | kernel | weights | activations |", "| --- | --- | --- | --- | --- |"]
    note = (
        "All else, norms, biases, sums and what lies between layers, is float32. A runtime without "
        "FP4 units computes the same numbers in another way, and not faster."
    )
    return "\n".join([*head, *rows, "", note])


def _cells(kernel: Any, specs: tuple[TensorSpec | None, TensorSpec | None] | None) -> str:
    x, w = specs or (None, None)
    packed = isinstance(kernel, PackedKernel)
    shape = kernel.shape if packed else kernel.get_value().shape
    return f"{' x '.join(map(str, shape))} | {_words(w)} | {_words(x)}"


def _words(spec: TensorSpec | None) -> str:
    """A spec in a few words."""
    if spec is None:
        return "float32"
    rows, columns = spec.block
    words = [f"FP4, blocks {rows}x{columns}"]
    words += ["rotated"] if spec.hadamard else []
    words += ["four-over-six scales"] if spec.scaling == "four_over_six" else []
    words += ["static scale"] if spec.amax == "static" else []
    return ", ".join(words)


def _images(subject: Subject) -> str:
    about = subject.about
    return "\n".join(_image_lines(about, subject.image))


def _image_lines(about: About, image: tuple[int, ...]) -> Iterator[str]:
    yield f"- size: {' x '.join(map(str, image[:-1]))}, {image[-1]} channels, last"
    if about.channels:
        yield f"- channels: {', '.join(about.channels)}"
    if about.mean:
        yield (
            f"- (x / {about.divisor:g} - mean) / sd, mean {list(about.mean)}, sd {list(about.sd)}"
        )
    else:
        yield "- volumes: RAS, each channel's z-scores over voxels that are not 0"
    what = "softmax, the largest class" if about.exclusive else f"sigmoid > {about.threshold:g}"
    yield f"- logits to masks: {what}"


def _limits(about: About) -> str:
    lines = [
        "- Research only; it is no medical device, and not for diagnosis.",
        "- It was scored on patients of the same data set: scanners, sequences and lesions that "
        "were not in it are not covered.",
        "- Each image is quantized as if it were alone; a runtime that quantizes a batch together "
        "gives other numbers.",
    ]
    if about.patients:
        lines.append(
            "- The packed file holds hashes of the patients' ids: whoever has a list of ids can "
            "tell who was among them."
        )
    return "\n".join(lines)
