"""Artifacts of jax.export: run by JAX alone in a fresh process, any batch, and dated."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from fp4jax import deploy, nnx as fp4nnx
from fp4jax.deploy import Options
from fp4jax.deploy.stablehlo import target
from fp4jax.deploy.stablehlo.promise import RELEASES, promise_of
from tests.deploy.subjects import full_disk, subject
from tests.test_package import run_python

_READ = """
import sys
import jax, numpy as np
from pathlib import Path
root = Path({root!r})
model = jax.export.deserialize(bytearray((root / "model.stablehlo").read_bytes()))
np.save(root / "y.npy", model.call(np.load(root / "x.npy")))
assert "fp4jax" not in sys.modules
"""


def test_a_fresh_process_runs_it_for_any_batch(tmp_path):
    one, root = subject("unet", "2d+rht"), tmp_path / "out"
    account = deploy.export(one, "stablehlo", root)
    about = json.loads((root / "about.json").read_text())
    assert about["images"] == ["batch", "16", "16", "2"]
    assert about["platforms"] == ["cpu", "cuda", "rocm", "tpu"]
    promise = promise_of(about["jaxlib"])
    assert about["readable_until"] == (promise.until and promise.until.isoformat())
    assert about["readable_by"] == promise.rule
    assert account.checked.endswith(str(promise))
    assert about["model"]["threshold"] == one.about.threshold
    x = one.examples(3)
    np.save(root / "x.npy", x)
    run_python(_READ.format(root=str(root)))
    forward = jax.jit(one.model)
    expected = np.concatenate([forward(image[None]) for image in x])
    found = np.load(root / "y.npy")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3)])
def test_layers_that_choose_by_size_take_any_batch(kernel):
    """A transposed convolution asks how many positions there are; here that has no number."""
    layer = nnx.ConvTranspose(16, 16, kernel, strides=2, rngs=nnx.Rngs(0))
    packed = fp4nnx.pack(fp4nnx.apply_recipe(layer, "forward_only"))
    exported = target.to_stablehlo(packed, (4, 4, 16), Options())
    assert str(exported.out_avals[0].shape[0]) == "batch"


@pytest.mark.slow
def test_channels_first_and_a_fixed_batch(tmp_path):
    options = Options(batch=2, channels_first=True)
    deploy.export(subject("unet", "2d+rht"), "stablehlo", tmp_path / "out", options)
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert (about["images"], about["channels_first"]) == (["2", "2", "16", "16"], True)
    assert about["logits"] == ["2", "1", "16", "16"]


def test_the_date_promises_no_more_than_jax_does():
    assert promise_of("0.11.0").until.isoformat() == "2027-01-16"
    newest = max(RELEASES.values())
    later = promise_of("0.99.0", today=newest)
    assert (later.built, later.exact) == (newest, False)
    assert "at least" in str(later)
    assert promise_of("0.12.0.1", today=newest).exact is False
    # A bound in the past, and none: the rule alone.
    for nothing in (promise_of("0.99.0", newest.replace(year=2028)), promise_of("0.1.0")):
        assert nothing.until is None
        assert "up to 6 months after jaxlib" in str(nothing)


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        deploy.export(subject("unet", "2d+rht"), "stablehlo", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_artifact_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(target, "_difference", lambda *args: 0.5)
    with pytest.raises(ValueError, match=r"by 5\.0e-01 of the largest logit, more than 1\.0e-04"):
        deploy.export(subject("unet", "2d+rht"), "stablehlo", tmp_path / "out")
    assert not list(tmp_path.iterdir())
