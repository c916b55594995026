"""The LGG set as a TensorFlow Datasets builder, in array_record files, without TensorFlow.

``lgg_kaggle/holdout`` and ``lgg_kaggle/fold0`` ... ``fold4`` are the splits of
:func:`fp4jax.data.patient_holdout` and :func:`fp4jax.data.patient_kfold` with seed 2026. The files
come from the user (``manual_dir``): the licence of the set does not allow to distribute them.
Import this module only where it is used; it needs tensorflow-datasets.

    prepare("kaggle_3m", "datasets")
    source = tfds.data_source("lgg_kaggle/fold0", data_dir="datasets")["train"]
    cohort = read("datasets", "fold0", "train")
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data import lgg
from fp4jax.data.cohort import Cohort
from fp4jax.data.splits import Split, patient_holdout, patient_kfold
from fp4jax.extras import Extra

with Extra("study"):
    import tensorflow_datasets as tfds

FOLDS = 5
SEED = 2026
PARTS = ("train", "val", "test")

_SIZE = 256
_CITATION = """@article{buda2019association,
  title = {Association of genomic subtypes of lower-grade gliomas with shape features automatically
           extracted by a deep learning algorithm},
  author = {Buda, Mateusz and Saha, Ashirbani and Mazurowski, Maciej A.},
  journal = {Computers in Biology and Medicine}, volume = {109}, year = {2019}
}"""


class LggKaggle(tfds.core.GeneratorBasedBuilder):
    """One configuration per split; features image, mask (0/1), patient_id and slice_index.

    Pass ``file_format="array_record"``: the default format needs TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (the base class declares it so)
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="holdout", description="80/10/10 % of the patients"),
        *(
            tfds.core.BuilderConfig(name=f"fold{i}", description=f"fold {i} of {FOLDS}")
            for i in range(FOLDS)
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download the LGG MRI segmentation set from Kaggle (mateuszbuda/lgg-mri-segmentation) and "
        "pass the folder that holds kaggle_3m as manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        # features.Image would need TensorFlow; without encoding= tensors are written as int64.
        tensor = tfds.features.Tensor
        return tfds.core.DatasetInfo(
            builder=self,
            description="Brain MRI slices with manual FLAIR abnormality masks of 110 patients.",
            homepage="https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
            license="CC BY-NC-SA 4.0",
            citation=_CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tensor(shape=(_SIZE, _SIZE, 3), dtype=np.uint8, encoding="bytes"),
                    "mask": tensor(shape=(_SIZE, _SIZE), dtype=np.uint8, encoding="bytes"),
                    "patient_id": tfds.features.Text(),
                    "slice_index": np.int32,
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        cohort = lgg.load(dl_manager.manual_dir)
        split = _split(cohort, config.name)
        return {part: self._generate_examples(cohort, getattr(split, part)) for part in PARTS}

    def _generate_examples(
        self, cohort: Cohort, patients: tuple[str, ...]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for i in np.flatnonzero(np.isin(cohort.patient_ids, patients)):
            patient, number = str(cohort.patient_ids[i]), int(cohort.slice_index[i])
            yield (
                f"{patient}_{number}",
                {
                    "image": cohort.images[i],
                    "mask": cohort.masks[i],
                    "patient_id": patient,
                    "slice_index": number,
                },
            )


def prepare(
    root: str | os.PathLike, data_dir: str | os.PathLike, config: str = "holdout"
) -> LggKaggle:
    """Writes one configuration (once; an existing one is used) and returns its builder.

    Args:
        root: the folder of the TIFF files, as for :func:`fp4jax.data.lgg.load`.
        data_dir: folder of the TensorFlow data sets to write to.
        config: ``"holdout"`` or ``"fold0"`` to ``"fold4"``.

    Raises:
        ValueError: an unknown configuration, or TIFF files that cannot be used.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # for the whole process: there is no other switch
    builder = _builder(data_dir, config)
    folder = str(lgg.find_folder(root).resolve())
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=folder),
        file_format="array_record",
    )
    return builder


def read(data_dir: str | os.PathLike, config: str = "holdout", part: str | None = None) -> Cohort:
    """What :func:`prepare` wrote, in the order of :func:`fp4jax.data.lgg.load`.

    Args:
        data_dir, config: as for :func:`prepare`.
        part: ``"train"``, ``"val"`` or ``"test"``; None reads all three.

    Raises:
        ValueError: an unknown part or configuration, or one that is not prepared.
    """
    if part not in (None, *PARTS):
        raise ValueError(f"part is {part!r}; {', '.join(PARTS)} and None (all) are allowed.")
    builder: Any = _builder(data_dir, config)
    if not Path(builder.data_path).is_dir():
        raise ValueError(f"{builder.data_path} is missing; call prepare(root, {str(data_dir)!r}).")
    sources = [builder.as_data_source(split=name) for name in (PARTS if part is None else (part,))]
    n = sum(len(source) for source in sources)
    images = np.empty((n, _SIZE, _SIZE, 3), np.uint8)
    masks = np.empty((n, _SIZE, _SIZE), np.uint8)
    # The files are shuffled: first the small fields to know the order, then each slice in place.
    names = [
        (_text(example["patient_id"]), int(example["slice_index"]))
        for source in sources
        for example in source
    ]
    place = {name: i for i, name in enumerate(sorted(names))}
    for source in sources:
        for example in source:
            i = place[_text(example["patient_id"]), int(example["slice_index"])]
            images[i], masks[i] = example["image"], example["mask"]
    return Cohort(
        images=images,
        masks=masks,
        patient_ids=np.array([patient for patient, _ in place]),
        slice_index=np.array([number for _, number in place], np.int32),
        name="lgg",
        channels=lgg.CHANNELS["rgb"],
    )


def _builder(data_dir: str | os.PathLike, config: str) -> LggKaggle:
    if config not in LggKaggle.builder_configs:
        raise ValueError(f"config is {config!r}; {', '.join(LggKaggle.builder_configs)} exist.")
    return LggKaggle(data_dir=str(data_dir), config=config, file_format="array_record")


def _split(cohort: Cohort, config: str) -> Split:
    if config == "holdout":
        return patient_holdout(cohort, SEED)
    return patient_kfold(cohort, FOLDS, SEED)[int(config.removeprefix("fold"))]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
