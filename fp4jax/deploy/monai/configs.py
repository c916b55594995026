"""metadata.json and inference.json of a bundle.

Sources: MONAI's bundle specification (docs/source/mb_specification.rst), and the schema of
metadata that its tests use.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fp4jax.deploy.monai.network import network_def
from fp4jax.deploy.subject import Subject
from fp4jax.predict.about import About
from fp4jax.version import __version__

#: With which bundles of this package were checked.
MONAI_VERSION, TORCH_VERSION = "1.6.1", "2.13.0"
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
INTENDED_USE = "Research only; it is no medical device, and not for diagnosis."


def metadata(subject: Subject, scores: Mapping[str, float]) -> dict[str, Any]:
    """metadata.json: what the network takes and gives.

    Args:
        subject: the model.
        scores: of test patients, by the metric's name.
    """
    about = subject.about
    targets = ", ".join(_outputs(about).values())
    channels = dict(_named(about.channels or _numbered("channel", about.in_channels)))
    weights = f"trained with the recipe {about.recipe!r} of fp4jax {__version__}"
    needed = {"pillow": "10.0.0"} if _pictures(about) else {"nibabel": "5.2.1"}
    common = {
        "type": "image",
        "spatial_shape": list(subject.image[:-1]),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": not _pictures(about),
    }
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by fp4jax {__version__}"},
        "monai_version": MONAI_VERSION,
        "pytorch_version": TORCH_VERSION,
        "numpy_version": np.__version__,
        "required_packages_version": needed,
        "optional_packages_version": {},
        "name": about.run or about.arch,
        "task": f"segmentation of {targets}",
        "description": (
            f"{about.arch}, {weights}; its quantized layers hold weights on the NVFP4 grid as "
            "float32 numbers, and activations are not quantized here. Outputs are logits."
        ),
        "authors": "whoever trained it",
        "authorship": "whoever trained it",
        "copyright": "whoever trained it",
        "data_source": about.data or "unknown",
        "data_type": "png, tiff" if _pictures(about) else "nibabel",
        "dataset_dir": "",
        "image_classes": ", ".join(channels.values()),
        "label_classes": targets,
        "pred_classes": targets,
        "eval_metrics": dict(scores),
        "intended_use": INTENDED_USE,
        "references": ["Du, Rybakov: Not All NVFP4 QAT Recipes Are Equal. arXiv 2605.27616."],
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "format": "magnitude",
                    "modality": "MR",
                    "num_channels": about.in_channels,
                    "channel_def": channels,
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "format": "labels" if about.exclusive else "classes",
                    "num_channels": about.num_classes,
                    "channel_def": _outputs(about),
                }
            },
        },
    }


def inference(subject: Subject) -> dict[str, Any]:
    """inference.json: from files in ``dataset_dir`` to masks in ``output_dir``.

    ``datalist`` is a list of {"image": file, or the files of all channels}.
    """
    about = subject.about
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$[{'image': path} for path in sorted(glob.glob(@dataset_dir + '/*'))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network_def(about, subject.model),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(about)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(about, subject.image[:-1]),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(about)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _pictures(about: About) -> bool:
    """Whether images are slices in files of their own, grey levels; else volumes, z-scores."""
    return bool(about.mean)


def _preprocessing(about: About) -> list[dict[str, Any]]:
    first = {"_target_": "EnsureChannelFirstd", "keys": "image"}
    if _pictures(about):
        return [
            # Rows first, as here.
            {
                "_target_": "LoadImaged",
                "keys": "image",
                "reader": "PILReader",
                "reverse_indexing": False,
            },
            first,
            # (x / divisor - mean) / sd
            {
                "_target_": "NormalizeIntensityd",
                "keys": "image",
                "subtrahend": [about.divisor * m for m in about.mean],
                "divisor": [about.divisor * s for s in about.sd],
                "channel_wise": True,
            },
        ]
    spacing = about.task.get("spacing")
    resampled = [{"_target_": "Spacingd", "keys": "image", "pixdim": spacing}] if spacing else []
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        first,
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        *resampled,
        {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
    ]


def _inferer(about: About, window: tuple[int, ...]) -> dict[str, Any]:
    if _pictures(about):
        return {"_target_": "SimpleInferer"}
    slices = about.spatial_dims == 2
    return {
        "_target_": "SliceInferer" if slices else "SlidingWindowInferer",
        **({"spatial_dim": 2} if slices else {}),
        "roi_size": list(window),
        "sw_batch_size": 1,
        "overlap": about.task.get("overlap", 0.5),
        "mode": "gaussian",
    }


def _postprocessing(about: About) -> list[dict[str, Any]]:
    activation = {"softmax": True} if about.exclusive else {"sigmoid": True}
    discrete = {"argmax": True} if about.exclusive else {"threshold": about.threshold}
    back = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "to_tensor": True,
    }
    return [
        {"_target_": "Activationsd", "keys": "pred", **activation},
        *([] if _pictures(about) else [back]),
        {"_target_": "AsDiscreted", "keys": "pred", **discrete},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "uint8",
            "resample": False,
        },
    ]


def _outputs(about: About) -> dict[str, str]:
    """What each channel of the logits is."""
    regions = about.regions or _numbered("class", about.num_classes)
    return dict(_named(("background", *regions) if about.exclusive else regions))


def _named(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(str(i), name) for i, name in enumerate(names)]


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name} {i}" for i in range(count))
