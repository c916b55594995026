"""What a target runs of a network, layer by layer: FP4, FP8, 16 bits or float32, and why.

    fp4jax targets runs/swin_4m_2d-rht-sr_... --target tensorrt openvino
    fp4jax targets --arch unet --recipe 2d+rht+sr --target tensorrt --calibrated
    fp4jax targets --config runs/RUN/config.json --recipe full --target tensorrt-rtx
    fp4jax targets --arch cnn --recipe 2d+rht+sr --target tensorrt --rules cnn.json

Of a run, a packed file, or, before any training, the options of fp4jax train. Nothing is
trained or computed. Shares are those of the multiply-adds of one image. --calibrated takes it that
x will have the static scales that TensorRT needs; a run with --calibrate has them anyway. --rules
writes a recipe made for the target, for fp4jax train --recipe @FILE. Targets: tensorrt,
tensorrt-rtx, openvino, onnxruntime, cudnn, fp4jax; their rules, with sources, are in
fp4jax/deploy/runtimes/known.py.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from fp4jax import deploy
from fp4jax.cli.command import Verb
from fp4jax.cli.options import RunOptions, by_task, from_config
from fp4jax.deploy import TargetTable
from fp4jax.deploy.runtimes.planned import Planned, planned
from fp4jax.files import replacing, write_json
from fp4jax.nnx.amax_places import amax_places
from fp4jax.ops.rules import Rules
from fp4jax.predict.packed_runs import PACK_STATIC


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a run, or a packed file; default: the network that the options describe
    network: Annotated[Path | None, tyro.conf.Positional] = None
    # slices, volumes, or a task that a plug-in registered
    task: str = "slices"

    run: RunOptions = dataclasses.field(default_factory=RunOptions)
    # one or several targets
    target: tuple[str, ...] = ()
    # take it that x has static scales
    calibrated: bool = False
    # quantize to FP8 what cannot run in FP4 and can in FP8; default: 16 bits with FP4 weights
    fp8: bool = False
    # print the shares alone
    summary: bool = False
    # print where the rules are from, too
    sources: bool = False
    # write the tables here, as JSON; a file that exists is replaced
    json: Path | None = None
    # write the tables here, as CSV; a file that exists is replaced
    csv: Path | None = None
    # write rules here, by which just those layers are quantized that the target runs in FP4
    rules: Path | None = None


def command(args: Args) -> None:
    if not args.target:
        names = ", ".join(deploy.runtime_names())
        raise ValueError(f"no target: give --target with one or several of {names}.")
    runtimes = [deploy.get_runtime(name) for name in args.target]
    if args.rules is not None:
        _check_rules(args)
    found = planned(_described(args))
    tables = [
        deploy.target_table(
            found.model, runtime, found.example, calibrated=args.calibrated, fp8=args.fp8
        )
        for runtime in runtimes
    ]
    shape = "x".join(map(str, found.example.shape[1:]))
    print(f"{found.name}, one image of {shape}")
    for table in tables:
        print(table.summary if args.summary else f"\n{table}")
    if any(runtime.static for runtime in runtimes) and _lacks_scales(args, found):
        print(
            f"\n{found.name} has no static scales of x. Those of a run that was trained with "
            f"--calibrate are packed by {PACK_STATIC}"
        )
    if args.sources:
        print("\n".join(["", *dict.fromkeys(s for table in tables for s in table.sources())]))
    _write(args, tables)
    if args.rules is not None:
        _write_rules(args.rules, found, args.target[0])


def _lacks_scales(args: Args, found: Planned) -> bool:
    """Whether it is a packed file whose x has no static scales."""
    packed = args.network is not None and args.network.expanduser().is_file()
    amaxes = (place.amax for place in amax_places(found.model))
    return packed and not args.calibrated and any(amax is None for amax in amaxes)


def _described(args: Args) -> Any:
    """A path, or the configuration of the options.

    Raises:
        ValueError: both.
    """
    config = args.run.config()
    if args.network is None:
        return config
    if config != RunOptions(data=type(args.run.data)()).config():
        raise ValueError(
            f"options of a run are given, but {args.network} has its own; start from them with "
            f"--config {args.network}/config.json, or leave the options out."
        )
    return args.network


def _check_rules(args: Args) -> None:
    """Raises ValueError if rules cannot be made, or would replace a file."""
    assert args.rules is not None
    if len(args.target) > 1:
        raise ValueError(f"--rules is for one target, and {len(args.target)} are given; name one.")
    if args.network is not None and args.network.is_file():
        raise ValueError(f"--rules is for training, but {args.network} is packed; name its run.")
    if args.rules.exists():
        raise ValueError(f"--rules: {args.rules} exists; name another file, or remove it.")


def _write(args: Args, tables: Sequence[TargetTable]) -> None:
    if args.json is not None:
        write_json(args.json, {"tables": [table.to_json() for table in tables]})
        print(args.json)
    if args.csv is not None:
        texts = [table.to_csv() for table in tables]
        # One header for all.
        text = texts[0] + "".join(one.split("\n", 1)[1] for one in texts[1:])
        with replacing(args.csv) as temporary:
            temporary.write_text(text, newline="")
        print(args.csv)


def _write_rules(path: Path, found: Planned, target: str) -> None:
    rules = deploy.recipe_for(
        found.model, found.recipe, target, found.example, keep=_of_rules(found)
    )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(Rules.make(rules).to_json(), indent=2) + "\n")
    quantized = sum(recipe is not None for recipe in rules.values())
    print(f"{path}: {quantized} of {len(rules)} layers in FP4 on {target}")


def _of_rules(found: Planned) -> tuple[str, ...]:
    """Rules say themselves what is kept."""
    return () if isinstance(found.recipe, Rules) else found.keep


# The data's is --data-target here.
_TAKEN = ("target",)
VERB = Verb(command, by_task(Args, taken=_TAKEN), __doc__, config=from_config(Args, _TAKEN))
