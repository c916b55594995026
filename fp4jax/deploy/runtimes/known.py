"""The rules of six runtimes, as read in November 2026, and where.

Nothing here was run on TensorRT or cuDNN. OpenVINO 2026.4 and onnxruntime 1.32 were, on CPU.
"""

import dataclasses

from fp4jax.deploy.runtimes import mode
from fp4jax.deploy.runtimes.rule import PACKED, Kind, Rule, Runtime, register_runtime

#: Convolutions in FP8 and INT8 only, no FP4 (README; issue 2281 asks for an error that says so).
MODEL_OPTIMIZER = "https://github.com/NVIDIA/Model-Optimizer/issues/2281"
#: A W4A4 convolution is refused; one of FP4 constants and 16-bit x silently runs in float32.
TENSORRT_CONV = "https://github.com/NVIDIA/TensorRT/issues/4833"
#: FP4 for activations has dynamic block scales and a given scale of these; FP8 a given scale.
TENSORRT_SCHEMES = (
    "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/"
    "quantized-types-schemes.html"
)
#: The dynamic quantizer takes 2 or 3 dimensions; other inputs are reshaped.
TENSORRT_DIMENSIONS = "https://github.com/pytorch/TensorRT/pull/3764"
#: FP4 kernels for Conv3d, outside of TensorRT.
CONV_3D = (
    "https://github.com/NVIDIA/TensorRT-LLM/pull/17262",
    "https://github.com/flashinfer-ai/flashinfer/pull/4176",
)
#: FP8 for matrix products only, since Ada; FP4 for matrix products only, since Blackwell.
TENSORRT_RTX = (
    "https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/"
    "work-quantized-types.html"
)
TENSORRT_RTX_HARDWARE = (
    "https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix-1/"
    "1.5.html"
)
#: 4-bit floats as compressed weights of matrix products, with E8M0 scales: decoded to float.
OPENVINO = "https://github.com/openvinotoolkit/openvino/pull/25783"
#: The type FLOAT4E2M1: asked for, and a pull request for Cast that is open.
ONNXRUNTIME = (
    "https://github.com/microsoft/onnxruntime/issues/24553",
    "https://github.com/microsoft/onnxruntime/pull/25767",
)
#: "FP4 convolution is not currently supported."
CUDNN_CONV = "https://github.com/NVIDIA/cudnn-frontend/issues/499"
CUDNN_SCALES = "https://docs.nvidia.com/cudnn/latest/operations/BlockScaling/llms.txt"
SCALED_MATMUL = "https://docs.jax.dev/en/latest/_autosummary/jax.nn.scaled_matmul.html"
#: Convolutions of E4M3 operands through cuDNN.
CUDNN_FP8_CONV = "https://github.com/tensorflow/tensorflow/pull/60807"
#: What this package's own code does.
FP4JAX = "fp4jax/packed/matmul.py"
FP4JAX_CONV = "fp4jax/packed/convolution.py"
EXPORT = "fp4jax/deploy/onnx/dialects.py"

_GEMM: tuple[Kind, ...] = ("linear", "convolution")
_NVFP4 = ("nvfp4",)


def _as_trained(source: str) -> Rule:
    """Layers that are kept in high precision."""
    return Rule(mode=mode.FLOAT, why="not quantized", sources=(source,), operands=("none",))


def _gemms(sources: tuple[str, ...], *, static: bool) -> tuple[Rule, ...]:
    """Matrix products of NVFP4 operands, on FP4 units."""
    calibrated = True if static else None
    fp4 = Rule(
        mode=mode.FP4,
        why="matrix product",
        sources=sources,
        kinds=_GEMM,
        operands=_NVFP4,
        matrix=True,
        calibrated=calibrated,
        scaling="amax",
    )
    rotated = "matrix product, after x is rotated by one of 16x16"
    return (
        dataclasses.replace(fp4, why=rotated, rotated=True),
        dataclasses.replace(
            fp4, why="matrix product, channels padded with zeros to 16", whole_blocks=False
        ),
        dataclasses.replace(
            fp4, why="matrix product, scales of 16x16 tiles repeated for each row", tiles=True
        ),
        fp4,
    )


def _tensorrt(gemm: tuple[str, ...], conv: tuple[str, ...], *, fp8_conv: bool) -> tuple[Rule, ...]:
    """What TensorRT and TensorRT-RTX have in common."""
    weights = Rule(
        mode=mode.HALF_WEIGHTS,
        why="no FP4 convolution: weights are decoded, x stays",
        sources=conv,
        kinds=PACKED,
        operands=_NVFP4,
    )
    of_fp8 = None if fp8_conv else True
    return (
        _as_trained(EXPORT),
        *_gemms(gemm, static=True),
        Rule(
            mode=mode.HALF_WEIGHTS,
            why="no static scale of x: calibrate the run (--calibrate max), pack it with --static",
            sources=gemm,
            kinds=PACKED,
            operands=_NVFP4,
            calibrated=False,
        ),
        Rule(
            mode=mode.TO_FP8,
            why="quantized to FP8 in place of FP4",
            sources=conv if fp8_conv else gemm,
            kinds=PACKED,
            operands=_NVFP4,
            matrix=of_fp8,
            fp8=True,
        ),
        Rule(
            mode=mode.FP8,
            why="FP8, a scale for each tensor",
            sources=conv if fp8_conv else gemm,
            kinds=PACKED,
            operands=("fp8",),
            calibrated=True,
            matrix=of_fp8,
        ),
        dataclasses.replace(
            weights,
            why="the quantizer of x has no four-over-six: weights are decoded, x stays",
            sources=gemm,
            scaling="four_over_six",
            matrix=True,
        ),
        dataclasses.replace(
            weights,
            why="FP4 Conv3d exists as kernels of other libraries only: weights are decoded",
            sources=(*conv, *CONV_3D),
            spatial_dims=(3,),
        ),
        weights,
        dataclasses.replace(
            weights, why="the recipe quantizes weights alone", operands=("weights",)
        ),
        Rule(
            mode=mode.FLOAT_VALUES,
            why="quantized by standard operators",
            sources=(EXPORT,),
        ),
    )


_RUNTIMES = (
    Runtime(
        "tensorrt",
        "TensorRT 10.8 to 11 on Blackwell, strongly typed",
        _tensorrt(
            (TENSORRT_SCHEMES, TENSORRT_DIMENSIONS),
            (MODEL_OPTIMIZER, TENSORRT_CONV),
            fp8_conv=True,
        ),
        static=True,
    ),
    Runtime(
        "tensorrt-rtx",
        "TensorRT-RTX 1.5 on GeForce and RTX PRO Blackwell",
        _tensorrt(
            (TENSORRT_RTX, TENSORRT_RTX_HARDWARE),
            (TENSORRT_RTX, TENSORRT_CONV),
            fp8_conv=False,
        ),
        static=True,
    ),
    Runtime(
        "openvino",
        "OpenVINO 2026.4 on CPU, of an onnx-standard file",
        (
            _as_trained(EXPORT),
            Rule(
                mode=mode.FLOAT_VALUES,
                why="4-bit floats are storage: decoded, and multiplied in float32",
                sources=(OPENVINO, EXPORT),
            ),
        ),
    ),
    Runtime(
        "onnxruntime",
        "onnxruntime 1.32 on CPU, of an onnx-portable file",
        (
            _as_trained(EXPORT),
            Rule(
                mode=mode.FLOAT_VALUES,
                why="no kernels of 4-bit floats: a table decodes them",
                sources=(*ONNXRUNTIME, EXPORT),
            ),
        ),
    ),
    Runtime(
        "cudnn",
        "cuDNN's block-scaled products on Blackwell, in a program of one's own",
        (
            _as_trained(CUDNN_SCALES),
            *_gemms((CUDNN_SCALES, SCALED_MATMUL), static=False),
            Rule(
                mode=mode.FP4,
                why="matrix product; four-over-six is a choice of scales",
                sources=(CUDNN_SCALES, SCALED_MATMUL),
                kinds=_GEMM,
                operands=_NVFP4,
                matrix=True,
            ),
            Rule(
                mode=mode.TO_FP8,
                why="FP8 convolution in place of FP4",
                sources=(CUDNN_FP8_CONV,),
                kinds=PACKED,
                operands=_NVFP4,
                fp8=True,
            ),
            Rule(
                mode=mode.FP8,
                why="FP8, a scale for each tensor",
                sources=(CUDNN_FP8_CONV,),
                kinds=PACKED,
                operands=("fp8",),
            ),
            Rule(
                mode=mode.HALF_WEIGHTS,
                why="no FP4 convolution: weights are decoded, x stays",
                sources=(CUDNN_CONV,),
                kinds=PACKED,
                operands=(*_NVFP4, "weights"),
            ),
            Rule(
                mode=mode.HALF_VALUES,
                why="no product of these formats: decoded",
                sources=(CUDNN_SCALES,),
            ),
        ),
    ),
    Runtime(
        "fp4jax",
        "fp4jax.nnx.pack on a Blackwell GPU (on CPU all is float32, with the same values)",
        (
            _as_trained(FP4JAX),
            Rule(
                mode=mode.FP4,
                why="packed product of both operands, through cuDNN",
                sources=(FP4JAX, SCALED_MATMUL),
                kinds=("linear",),
                operands=_NVFP4,
                matrix=True,
            ),
            Rule(
                mode=mode.HALF_VALUES,
                why="packed weights; FP4 values are exact in bfloat16",
                sources=(FP4JAX_CONV,),
                kinds=PACKED,
                operands=_NVFP4,
            ),
            Rule(
                mode=mode.FLOAT_WEIGHTS,
                why="packed weights, x as it is",
                sources=(FP4JAX,),
                kinds=PACKED,
                operands=("weights",),
            ),
            Rule(
                mode=mode.HALF_VALUES,
                why="quantized in every call; FP4 values are exact in bfloat16",
                sources=("fp4jax/ops/gemm.py",),
                operands=_NVFP4,
            ),
            Rule(
                mode=mode.FLOAT_VALUES,
                why="not packed: nvfp4 alone is",
                sources=("fp4jax/nnx/packing.py",),
            ),
        ),
    ),
)


def register() -> None:
    """Makes them known; registering twice changes nothing."""
    for runtime in _RUNTIMES:
        register_runtime(runtime)
