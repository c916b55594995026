"""The YAML header of a model card, as the Hugging Face hub reads it."""

from typing import Any

from fp4jax.deploy.subject import Subject
from fp4jax.version import __version__


def header(subject: Subject) -> dict[str, Any]:
    """Keys of the hub's metadata (``model-index`` has the scores), and ``fp4jax`` for the rest.

    The licence is "other": that of weights is for whoever trained them to choose.
    """
    about = subject.about
    name = about.run or about.arch
    return {
        "library_name": "fp4jax",
        "license": "other",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "segmentation", "nvfp4", "4-bit", about.arch],
        "model-index": [{"name": name, "results": _results(subject)}] if subject.scores else [],
        "fp4jax": {
            "version": __version__,
            "arch": about.arch,
            "scale": about.scale,
            "recipe": about.recipe,
            "threshold": about.threshold,
            "data": about.data,
            "data_digest": about.digest,
            "patients": {part: len(ids) for part, ids in about.patients.items()},
            "channels": list(about.channels),
            "regions": list(about.regions),
        },
    }


def _results(subject: Subject) -> list[dict[str, Any]]:
    data = subject.about.data or "unknown"
    metrics = [
        {
            "type": score.name,
            "name": score.name,
            "value": score.value,
            "args": {
                "patients": score.patients,
                "interval_95": None if score.interval is None else list(score.interval),
            },
        }
        for score in subject.scores
    ]
    return [
        {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": data, "type": data, "split": "test"},
            "metrics": metrics,
        }
    ]
