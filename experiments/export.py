"""Take a trained model out of JAX: a file for another runtime, compared with the packed model.

    python -m experiments.export runs/swin_4m_2d-rht-sr_... --to onnx-portable --out swin.onnx
    python -m experiments.export model.safetensors --to onnx-standard --out swin.onnx --batch 1
    python -m experiments.export runs/swin_4m_..._calibrated --to onnx-trt --out swin.onnx

Takes the best epoch of a run, or what experiments.predict --save wrote. Prints for each layer how
it was written, the size of the file, and its largest difference from the packed model; a file that
differs by more than --bound is not written, and none is written over another.
Targets: onnx-portable (onnxruntime), onnx-standard (float4 operators), onnx-trt (TensorRT; of a run
that was trained with --calibrate). For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command import main
from fp4jax import deploy
from fp4jax.deploy import Options


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a run, or a file that experiments.predict --save wrote
    model: Annotated[Path, tyro.conf.Positional]
    # target: onnx-portable, onnx-standard, onnx-trt, or one that a plug-in registers
    to: str
    # the file; it must not exist
    out: Path
    # images of a call (default: any number)
    batch: int | None = None
    # images and logits are (batch, channels, *space) instead of (batch, *space, channels)
    channels_first: bool = False
    # largest difference from the packed model that is no error, over the largest magnitude
    bound: float = 1e-4
    # quantize a run with another recipe than its own; baseline: with none
    recipe: str | None = None
    # with the static scales that the run was calibrated to; what needs them takes them anyway
    static: bool = False


def command(args: Args) -> None:
    options = Options(args.batch, args.channels_first, args.bound)
    print(
        deploy.export(
            args.model, args.to, args.out, options, recipe=args.recipe, static=args.static
        )
    )


if __name__ == "__main__":
    main(command, Args, __doc__)
