"""Files of weights: npz, safetensors and PyTorch's, of which nothing is run."""

import pathlib
import pickle
import re

import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import models


def test_read_weights(tmp_path):
    weights = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.arange(3, dtype=np.float16)}

    def same(path, expected=weights):
        got = models.read_weights(path)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, strict=True)

    np.savez(tmp_path / "w.npz", **{f"module.model.{k}": v for k, v in weights.items()})
    same(tmp_path / "w.npz")
    # Names of a U-Net begin with "model." themselves.
    unet = {"model.0.conv.weight": np.ones(3)}
    np.savez(tmp_path / "unet.npz", **{f"net.{k}": v for k, v in unet.items()})
    same(tmp_path / "unet.npz", unet)
    np.savez(tmp_path / "object.npz", a=np.array([{}], object))
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "w.txt").write_text("1")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678 not a header")
    for name, message in (
        ("object.npz", "no npz file of plain arrays"),
        ("empty.npz", "contains no arrays"),
        ("w.txt", "allowed: .safetensors"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            models.read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        models.read_weights(tmp_path / "none.pt")


def test_read_weights_of_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    weights = {"w": np.ones((2, 3), np.float32), "i": np.arange(4), "b": np.ones(2, jnp.bfloat16)}
    numpy.save_file({f"module.{k}": v for k, v in weights.items()}, tmp_path / "w.safetensors")
    got = models.read_weights(tmp_path / "w.safetensors")
    assert got.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(got[name], value, strict=True)
    (tmp_path / "bad.safetensors").write_bytes(b"12345678 not a header")
    with pytest.raises(ValueError, match="no safetensors file"):
        models.read_weights(tmp_path / "bad.safetensors")


def test_read_weights_of_torch(tmp_path):
    path = tmp_path / "w.pt"
    # Whether torch is there or not, nothing of a pickle is run.
    with open(path, "wb") as file:
        pickle.dump(Touch(tmp_path / "touched"), file, protocol=2)  # torch warns of others
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        models.read_weights(path)
    assert "\n" not in str(caught.value)
    assert "safetensors" in str(caught.value)
    assert not (tmp_path / "touched").exists()
    torch = pytest.importorskip("torch")
    tensors = {"module.w": torch.ones(2, 3), "module.b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"state_dict": tensors, "epoch": 3}, path)
    got = models.read_weights(path)
    assert {k: (v.shape, str(v.dtype)) for k, v in got.items()} == {
        "w": ((2, 3), "float32"),
        "b": ((2,), "float32"),
    }


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)
