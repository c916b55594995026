"""Take a trained model out of JAX: in the form that its user reads, checked before it is there.

    fp4jax export runs/swin_4m_2d-rht-sr_... --to onnx-portable --out swin.onnx
    fp4jax export model.safetensors --to onnx-standard --out swin.onnx --batch 1
    fp4jax export runs/swin_4m_..._calibrated --to onnx-trt --out swin.onnx
    fp4jax export runs/swin_4m_..._calibrated --to modelopt --out swin_fp4
    fp4jax export runs/unet_4m_2d-rht-sr_... --to monai-bundle --out bundle

Takes the best epoch of a run, what fp4jax predict --save wrote, or a folder that this command
wrote as compressed-tensors or modelopt. Prints for each layer how it was written, the size, and the
largest difference from the packed model; what differs by more than --bound is not written, and
nothing is written over another file.
Files: onnx-portable (onnxruntime), onnx-standard (float4 operators), onnx-trt (TensorRT). Folders:
compressed-tensors, modelopt (safetensors and a configuration), stablehlo (jax.export),
monai-bundle, model-card (Hugging Face). onnx-trt, compressed-tensors and modelopt take runs that
were trained with --calibrate. For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fp4jax import deploy
from fp4jax.cli.command import Verb
from fp4jax.deploy import Options
from fp4jax.deploy.targets import Half


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a run, a file that fp4jax predict --save wrote, or such a folder
    model: Annotated[Path, tyro.conf.Positional]
    # target: onnx-portable, onnx-standard, onnx-trt, compressed-tensors, modelopt, stablehlo,
    # monai-bundle, model-card, or one that a plug-in registers
    to: str
    # the file or folder; it must not exist
    out: Path
    # images of a call (default: any number)
    batch: int | None = None
    # images and logits are (batch, channels, *space) instead of (batch, *space, channels)
    channels_first: bool = False
    # largest difference from the packed model that is no error, over the largest magnitude
    bound: float = 1e-4
    # onnx-trt: the type of products that TensorRT has no FP4 units for; float32 writes the packed
    # model itself
    half: Half = "bfloat16"
    # quantize a run with another recipe than its own; baseline: with none
    recipe: str | None = None
    # with the static scales that the run was calibrated to; what needs them takes them anyway
    static: bool = False


def command(args: Args) -> None:
    options = Options(args.batch, args.channels_first, args.bound, args.half)
    print(
        deploy.export(
            args.model, args.to, args.out, options, recipe=args.recipe, static=args.static
        )
    )


VERB = Verb(command, Args, __doc__)
