"""Does a proposed keep list help? Compares it with all layers in FP4 and with the model's own list.

    fp4jax keep-lists --out runs/demo

On the demo's patients and 500k models: trains baselines, takes the sensitivity of the first
seed's, proposes what to keep at --budget, and quantizes (ptq) or trains (qat) all seeds under the
recipe with nothing kept, with the layers that the model itself keeps, and with the proposal. Prints
the test AUPRC and writes keep_lists_RECIPE.csv. Runs that are finished are not trained again; a
folder of `fp4jax study demo` may be given.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fp4jax.analysis.sensitivity import propose, sensitivity_of_run
from fp4jax.cli.command import Verb
from fp4jax.cli.presets import PRESETS
from fp4jax.files import replacing
from fp4jax.models import create
from fp4jax.nnx import SensitivityTable
from fp4jax.ops.rules import Rules
from fp4jax.study import Study, execute
from fp4jax.train import Data, RunFolder


@dataclasses.dataclass(frozen=True)
class Args:
    # the runs' folders lie in here
    out: Path = Path("runs/demo")
    # architectures
    archs: tuple[str, ...] = ("cnn", "swin")
    # recipe that is compared
    recipe: str = "full"
    # share of the layers' multiply-adds in FP4
    budget: float = 0.9
    # what layers are weighed by
    metric: Literal["kl", "loss", "gradient", "auprc"] = "kl"
    # batches that the sensitivity is measured on
    batches: int = 4
    # ptq: quantized after training; qat: trained under the recipe
    methods: tuple[Literal["qat", "ptq"], ...] = ("ptq", "qat")
    # seeds of the runs
    seeds: tuple[int, ...] = (2026, 2027, 2028)


def command(args: Args) -> None:
    preset = PRESETS["demo"]()
    data = preset.study.data.open(preset.source)
    rows = [row for arch in args.archs for row in _compared(args, preset.study, data, arch)]
    print("| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path = args.out / f"keep_lists_{args.recipe.replace('+', '-')}.csv"
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), newline="")
    print(path)


def _compared(args: Args, demo: Study, data: Data, arch: str) -> Iterator[dict[str, str]]:
    """A row for each method and list."""
    study = dataclasses.replace(demo, archs=(arch,), seeds=args.seeds, recipes=("baseline",))
    baselines = _folders(study, data, args.out)
    table = sensitivity_of_run(
        baselines[0].path,
        data,
        args.recipe,
        metric=args.metric,
        batches=args.batches,
        budget=args.budget,
    )
    proposal = propose(table, args.budget)
    print(f"{arch}: {proposal}")
    nothing = table.rules(())
    lists: dict[str, tuple[Any, float]] = {
        "nothing": (nothing, _share(table, nothing)),
        "the model's own": (args.recipe, _share(table, _own(demo, arch, table))),
        f"proposed at {args.budget:g}": (proposal.rules, _share(table, proposal.rules)),
    }
    exact = _auprc(baselines)
    yield _row(arch, "baseline", "everything", 0.0, exact, exact)
    for method in args.methods:
        for name, (recipe, share) in lists.items():
            several = ("baseline", recipe) if method == "ptq" else (recipe,)
            one = dataclasses.replace(study, methods=(method,), recipes=several)
            yield _row(arch, method, name, share, _auprc(_folders(one, data, args.out)), exact)


def _folders(study: Study, data: Data, out: Path) -> Sequence[RunFolder]:
    """The finished runs of a study of one recipe, in the order of its seeds."""
    outcome = execute(study, data, out, name="keep-lists", synthetic=True)
    if outcome.failures:
        raise ValueError("; ".join(f"{name}: {error}" for name, error in outcome.failures))
    return outcome.folders


def _own(demo: Study, arch: str, table: SensitivityTable) -> Rules:
    """The rules of the model's own list."""
    from flax import nnx

    options = demo.per_arch.get(arch, {}).get("model_options", {})
    model: Any = nnx.eval_shape(
        lambda: create(
            arch,
            demo.scales[0],
            rngs=nnx.Rngs(0),
            **demo.data.model_arguments(demo.runs()[0]),
            **options,
        )
    )
    patterns = [p for p in model.high_precision if any(re.match(p, r.layer) for r in table.layers)]
    return table.rules(patterns)


def _share(table: SensitivityTable, rules: Rules) -> float:
    """Share of the layers' multiply-adds that rules leave in FP4."""
    amounts = [(row.multiply_adds, rules.of(row.layer)) for row in table.layers]
    return sum(a for a, recipe in amounts if recipe) / sum(a for a, _ in amounts)


def _auprc(folders: Sequence[RunFolder]) -> np.ndarray:
    return np.array([(folder.summary() or {})["test"]["auprc"] for folder in folders])


def _row(
    arch: str, method: str, kept: str, share: float, values: np.ndarray, exact: np.ndarray
) -> dict[str, str]:
    """One line; the difference is that of the same seed's baseline."""
    of_seeds = " ".join(f"{value:+.3f}" for value in values - exact)
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return {
        "model": arch,
        "method": method,
        "kept in high precision": kept,
        "multiply-adds in FP4": f"{share:.1%}",
        "test AUPRC": f"{values.mean():.3f}{spread}",
        "each seed minus its baseline": of_seeds,
    }


VERB = Verb(command, Args, __doc__)
