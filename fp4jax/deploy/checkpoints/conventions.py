"""The two conventions as data: names of tensors, which way scales go, the configuration beside.

Both keep a linear layer's weights (n, k) as two codes a byte, the even column in the low bits, and
E4M3 scales (n, k / 16), row by row. They differ in names, and in the scales of scales:

    modelopt            weight         weight_scale  weight_scale_2 = amax / 2688
                        input_scale = amax of x / 2688
    compressed-tensors  weight_packed  weight_scale  weight_global_scale = 1 / weight_scale_2
                        input_global_scale = 1 / input_scale

Sources: vllm-project/compressed-tensors, compressors/nvfp4/base.py and
entrypoints/convert/converters/modelopt_nvfp4.py; NVIDIA/Model-Optimizer,
torch/export/unified_export_hf.py, quant_utils.py and convert_hf_config.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.version import __version__

#: Names of linear layers whose activations are quantized, and of those whose are not.
Layers = tuple[list[str], list[str]]


@dataclasses.dataclass(frozen=True)
class Convention:
    """How one of them calls things.

    Attributes:
        name: of the target, and the ``quant_method`` of its configuration.
        codes, scales, scale, input_scale: last part of the names of tensors.
        inverted: whether scales of scales are bound / amax instead of amax / bound.
        shape: of these.
        config: (linear layers, all other layers) -> ``quantization_config``.
        files: the same -> further JSON files, by name.
    """

    name: str
    codes: str
    scales: str
    scale: str
    input_scale: str
    inverted: bool
    shape: tuple[int, ...]
    config: Callable[[Layers, list[str]], dict[str, Any]]
    files: Callable[[Layers, list[str]], Mapping[str, dict[str, Any]]]

    def number(self, amax: np.float32, bound: float) -> np.ndarray:
        """The scale of scales of an operand; 1 for zeros, which any scale leaves zeros.

        Raises:
            ValueError: one that float32 has no finite number for.
        """
        scale = np.float32(amax) / np.float32(bound) if amax != 0 else np.float32(1)
        with np.errstate(divide="ignore", over="ignore"):
            number = np.float32(1) / scale if self.inverted else scale
        if not (np.isfinite(number) and number > 0):
            raise ValueError(
                f"its amax is {amax}, of which {self.name} has no finite scale: train it again, or "
                "keep the layer in high precision."
            )
        return np.full(self.shape, number, np.float32)


def _compressed_tensors(layers: Layers, rest: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": 4,
        "type": "float",
        "symmetric": True,
        "strategy": "tensor_group",
        "group_size": BLOCK,
        "dynamic": False,
    }
    groups = [(layers[0], {**weights, "dynamic": "local"}), (layers[1], None)]
    form = "nvfp4-pack-quantized"
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{i}": {
                "targets": targets,
                "weights": weights,
                "input_activations": activations,
                "format": form,
            }
            for i, (targets, activations) in enumerate(groups)
            if targets
        },
        "ignore": rest,
    }


def _algorithms(layers: Layers) -> dict[str, str]:
    quantized, weights_only = layers
    return dict.fromkeys(quantized, "NVFP4") | dict.fromkeys(weights_only, "W4A16_NVFP4")


def _algorithm(layers: Layers) -> str | None:
    """That of all layers; MIXED_PRECISION of several; None without any."""
    found = set(_algorithms(layers).values())
    return "MIXED_PRECISION" if len(found) > 1 else next(iter(found), None)


def _modelopt_quantization(layers: Layers, rest: list[str]) -> dict[str, Any]:
    found = _algorithm(layers)
    record: dict[str, Any] = {"quant_algo": found, "kv_cache_quant_algo": None}
    if found == "MIXED_PRECISION":
        record["quantized_layers"] = {
            name: {"quant_algo": algorithm, "group_size": BLOCK}
            for name, algorithm in _algorithms(layers).items()
        }
    else:
        record |= {"group_size": BLOCK, "exclude_modules": rest}
    return record


def _producer() -> dict[str, str]:
    """Loaders look for this name to know the convention; who wrote it is said beside."""
    return {"name": "modelopt", "version": "0.47.0", "written_by": f"fp4jax {__version__}"}


def _modelopt(layers: Layers, rest: list[str]) -> dict[str, Any]:
    numbers = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": BLOCK}
    groups = {
        f"group_{i}": {
            **({"input_activations": numbers} if quantized else {}),
            "weights": numbers,
            "targets": targets,
        }
        for i, (targets, quantized) in enumerate(zip(layers, (True, False), strict=True))
        if targets
    }
    return {
        "config_groups": groups,
        "ignore": rest,
        "quant_algo": _algorithm(layers),
        "producer": _producer(),
        "quant_method": "modelopt",
    }


def _hf_quant_config(layers: Layers, rest: list[str]) -> dict[str, dict[str, Any]]:
    record = {"producer": _producer(), "quantization": _modelopt_quantization(layers, rest)}
    return {"hf_quant_config.json": record}


COMPRESSED_TENSORS = Convention(
    name="compressed-tensors",
    codes="weight_packed",
    scales="weight_scale",
    scale="weight_global_scale",
    input_scale="input_global_scale",
    inverted=True,
    shape=(1,),
    config=_compressed_tensors,
    files=lambda layers, rest: {},
)
MODELOPT = Convention(
    name="modelopt",
    codes="weight",
    scales="weight_scale",
    scale="weight_scale_2",
    input_scale="input_scale",
    inverted=False,
    shape=(),
    config=_modelopt,
    files=_hf_quant_config,
)
CONVENTIONS = {convention.name: convention for convention in (COMPRESSED_TENSORS, MODELOPT)}
