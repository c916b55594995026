"""Small NIfTI data sets in every layout, with known content."""

import json
from pathlib import Path

import numpy as np

SHAPE = (14, 12, 10)
# Scanner axes to the left, posterior and superior, as in BraTS; in RAS the data are flipped twice.
LPS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
SUFFIXES = {
    "brats2020": ("_flair", "_t1", "_t1ce", "_t2", "_seg"),
    "brats2023": ("-t2f", "-t1n", "-t1c", "-t2w", "-seg"),
}


def oblique(spacing=(1.0, 1.5, 4.0)):
    """An affine whose axes are turned about z and x."""
    a, b = 0.3, -0.2
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ about_x @ np.diag(spacing)
    affine[:3, 3] = (-50, 12.5, 7)
    return affine


def volume(seed, shape=SHAPE):
    """Integers from 1 on, in random order, and 0 on the faces: every brain voxel has its own."""
    data = np.zeros(shape, np.float32)
    inside = tuple(n - 2 for n in shape)
    values = np.random.default_rng(seed).permutation(np.prod(inside)) + 1
    data[1:-1, 1:-1, 1:-1] = values.reshape(inside)
    return data


def label(values, shape=SHAPE):
    """Nested boxes: the last value in the smallest, two voxels in all."""
    data = np.zeros(shape, np.uint8)
    for i, value in enumerate(values):
        data[3 : 9 - 2 * i, 3 : 8 - i, 3 : 7 - i] = value
    return data


def write(path, data, affine=LPS, change=None):
    """Writes an array as it is, with this affine; ``change`` alters the image before."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine)
    if change:
        change(image)
    nibabel.save(image, path)
    return path


def brats(root, ids, suffixes="brats2020", values=(2, 1, 4), *, seg=True, end=".nii.gz"):
    """Cases of BraTS; returns the images of each as (x, y, z, 4), and the label map."""
    content = {}
    *images, last = SUFFIXES[suffixes]
    for number, case in enumerate(ids):
        data = np.stack([volume((number, m)) for m in range(4)], axis=-1)
        for m, suffix in enumerate(images):
            write(Path(root, case, f"{case}{suffix}{end}"), data[..., m].astype(np.int16))
        labels = label(values)
        if seg:
            write(Path(root, case, f"{case}{last}{end}"), labels)
        content[case] = data, labels
    return content


def decathlon(root, ids, modality, labels, *, values=(1, 2, 3), test=()):
    """A task of the Decathlon with 4-D images where there are several modalities."""
    content = {}
    for number, case in enumerate((*ids, *test)):
        data = np.stack([volume((number, m)) for m in range(len(modality))], axis=-1)
        part = "Ts" if case in test else "Tr"
        stored = data if len(modality) > 1 else data[..., 0]
        write(Path(root, f"images{part}", f"{case}.nii.gz"), stored)
        (Path(root, f"images{part}") / f"._{case}.nii.gz").write_bytes(b"AppleDouble")
        if case in ids:
            write(Path(root, "labelsTr", f"{case}.nii.gz"), label(values))
        content[case] = data, label(values)
    record = {
        "modality": {str(i): name for i, name in enumerate(modality)},
        "labels": {str(value): name for value, name in enumerate(labels)},
        "training": [
            {"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ids
        ],
        "test": [f"./imagesTs/{c}.nii.gz" for c in test],
    }
    Path(root, "dataset.json").write_text(json.dumps(record))
    return content


def ras(data):
    """What was stored with LPS, in RAS."""
    return data[::-1, ::-1]
