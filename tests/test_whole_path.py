"""The page of the whole path: every command of it runs, on the samples, one after the other."""

import os
import subprocess
import sys

import jax
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.test_docs import ROOT, commands

PAGE = ROOT / "docs" / "whole_path.md"


@pytest.fixture
def folder(shared, tmp_path):
    """A folder with the data that the page names."""
    (tmp_path / "kaggle_3m").symlink_to(shared / "lgg_sample" / "kaggle_3m")
    for i, path in enumerate(sorted((shared / "lgg_sample" / "kaggle_3m").glob("TCGA*"))):
        # Six patients with two examinations each, as they are exported.
        out = tmp_path / "patients" / f"Doe, J{i // 2}" / f"20{10 + i}-09-03 MRT"
        out.mkdir(parents=True)
        for number in range(8, 14):
            for end in ("", "_mask"):
                image = tifffile.imread(path / f"{path.name}_{number}{end}.tif")
                Image.fromarray(image).save(out / f"IM_{number}{end}.png")
    (sample,) = (path for path in (shared / "brats_sample").iterdir() if path.is_dir())
    parts = ("test", "train", "train", "train", "train", "validation")
    for i, part in enumerate(parts, start=1):
        for file in sample.glob("*.nii.gz"):
            image = nibabel.load(file)
            # Half as fine, and another brain each time: mirrored, cut, and brighter on one side,
            # or it were known as a copy.
            data = np.asarray(image.dataobj)[::2, ::2, ::2][:: 1 - 2 * (i % 2), i // 2 :]
            if file.name.startswith(("Flair", "T1c")):
                data = data * np.linspace(1, 1 + i / 8, len(data), dtype=np.float32)[:, None, None]
            half = image.affine @ np.diag([2, 2, 2, 1])
            out = tmp_path / "brats2015" / part / f"brats_2013_pat000{i}_1" / file.name
            out.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(data, half), out)
    return tmp_path


@pytest.mark.slow
def test_every_command_runs(folder):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FP4JAX_CACHE": str(folder / "cache"),
        "JAX_PLATFORMS": "cpu",
        # What a command compiles, the next run of this test need not: the suite's cache.
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),  # pyright: ignore
    }
    for line in commands(PAGE):
        done = subprocess.run(
            f"{sys.executable} -m fp4jax {line}",
            shell=True,
            cwd=folder,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    # Of slices a mask for each, of the run and of the packed file; the two are nearly the same.
    slices = sorted(folder.glob("kaggle_3m/*/*_mask.tif"))
    assert len(sorted(folder.glob("masks/*/*_mask.tif"))) == len(slices) == 266
    assert (folder / "masks" / "predictions.csv").exists()
    assert len(sorted(folder.glob("own_masks/*/*/IM_*_mask.png"))) == 12 * 6
    # Of volumes label maps that lie on the images, with scores where there are labels.
    (image,) = folder.glob("brats2015/test/*/Flair*.nii.gz")
    for out in ("labels", "labels_4bit", "slices", "slices_4bit"):
        (written,) = folder.glob(f"{out}/*.nii.gz")
        assert nibabel.load(written).shape == nibabel.load(image).shape
        np.testing.assert_allclose(nibabel.load(written).affine, nibabel.load(image).affine)
        assert (folder / out / "scores.csv").exists()


def test_only_training_is_told_what_the_data_are():
    """All later commands get it from the run, or from the file."""
    for line in commands(PAGE):
        command, *words = line.split()
        if command not in ("data", "train", "train-volumes"):
            known = {"--patterns", "--label", "--labels", "--mask", "--spacing", "--image-size"}
            assert not known.intersection(words), line
