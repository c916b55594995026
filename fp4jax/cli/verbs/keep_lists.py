"""Does a proposed keep list help? Compares it with all layers in FP4 and with the model's own list.

    fp4jax keep-lists --out runs/demo
    fp4jax keep-lists --preset lgg-cv-cpu --root kaggle_3m --archs cnn --splits cv \\
        --methods qat --seeds 2026 --out runs/lgg-cv-cpu

On the data and models of a named study that has one size and one attention: trains baselines,
takes the sensitivity of the first seed's, proposes what to keep at --budget, and quantizes (ptq) or
trains (qat) all seeds under the recipe with nothing kept, with the layers that the model itself
keeps, and with the proposal. Of several splits each has a proposal of its own, from its training
patients alone. Prints the test AUPRC and writes keep_lists_RECIPE.csv, and beside it what each
layer costs (_layers), the scores of each test patient (_patients) and the lists compared on them
(_contrasts); `fp4jax claims` takes these files up. Runs that are finished are not trained again; a
folder of `fp4jax study` with the same preset may be given.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fp4jax.analysis.by_patient import patient_table
from fp4jax.analysis.claims import markdown
from fp4jax.analysis.claims.keep_lists import write_lists
from fp4jax.analysis.results import read_run
from fp4jax.analysis.sensitivity import propose, sensitivity_of_run
from fp4jax.cli.command import Verb
from fp4jax.cli.presets import PRESETS
from fp4jax.models import create
from fp4jax.nnx import SensitivityTable
from fp4jax.ops.recipe import get_recipe
from fp4jax.ops.rules import Rules
from fp4jax.predict.pictures import is_synthetic
from fp4jax.study import Study, execute
from fp4jax.train import Data, RunFolder, Slices, Source


@dataclasses.dataclass(frozen=True)
class Args:
    source: Source = dataclasses.field(default_factory=Source)
    # the named study whose data and settings are taken
    preset: str = "demo"
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
    # holdout, single folds (fold0 ...), or cv for all of them
    splits: tuple[str, ...] = ("holdout",)
    # seeds of the runs
    seeds: tuple[int, ...] = (2026, 2027, 2028)

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; allowed: {', '.join(PRESETS)}.")
        get_recipe(self.recipe)
        if not 0 < self.budget <= 1:
            raise ValueError(f"budget is {self.budget}; it must be above 0 and at most 1.")
        if self.batches < 1:
            raise ValueError(f"batches is {self.batches}; it must be at least 1.")


def command(args: Args) -> None:
    preset = PRESETS[args.preset]()
    # All that can be refused is refused before anything is trained.
    studies = baselines_of(args, preset.study)
    source = args.source if preset.prepare is None else preset.prepare(args.source)
    data = preset.study.data.open(source)
    costs: list[dict[str, Any]] = []
    lists = [one for study in studies for one in _compared(args, study, data, costs)]
    rows = pd.DataFrame([_row(one, _exact(one, lists)) for one in lists])
    print(markdown.table(list(rows.columns), rows.to_numpy().tolist()))
    for path in write_lists(rows, pd.DataFrame(costs), _scores(lists), args.recipe, args.out):
        print(path)


def baselines_of(args: Args, named: Study) -> list[Study]:
    """The baselines of each architecture.

    Raises:
        ValueError: the named study is of volumes, or of several sizes or attentions, or an
            architecture, split or seed is not allowed.
    """
    if not isinstance(named.data, Slices):
        raise ValueError(f"preset {args.preset} is of volumes; name one of slices, such as demo.")
    for name in ("scales", "attentions"):
        values = getattr(named, name)
        if len(values) > 1:
            raise ValueError(
                f"preset {args.preset} has {len(values)} {name} ({', '.join(map(str, values))}), "
                "and lists are compared in one; name a preset of one, such as demo or lgg-cpu."
            )
    options: dict[str, Any] = {"recipes": ("baseline",), "methods": ("qat",)}
    options |= {"seeds": args.seeds, "splits": args.splits}
    return [dataclasses.replace(named, archs=(arch,), **options) for arch in args.archs]


@dataclasses.dataclass(frozen=True)
class _List:
    """Runs of an architecture and method that keep the same, or each split its proposal."""

    arch: str
    method: str
    kept: str
    # that stay in high precision, of each split where these differ
    layers: str
    # of the layers' multiply-adds in FP4, the mean over splits
    share: float
    # in the order of splits and seeds
    folders: tuple[RunFolder, ...]

    @property
    def label(self) -> str:
        """As a comparison names it."""
        if self.method == "baseline":
            return self.method
        return f"{self.method} {self.kept}" if self.method != "qat" else self.kept


def _compared(args: Args, study: Study, data: Data, costs: list[dict[str, Any]]) -> Iterator[_List]:
    """The baselines of an architecture, then each method and list; adds what layers cost."""
    (arch,) = study.archs
    baselines = _folders(study, data, args.out)
    yield _List(arch, "baseline", "everything", "all", 0.0, tuple(baselines))
    splits = tuple(dict.fromkeys(run.split for run in study.runs()))
    # name -> for each split its recipe, the layers that it keeps, and the share in FP4
    lists: dict[str, list[tuple[Any, str, float]]] = {}
    for split, baseline in zip(splits, baselines[:: len(args.seeds)], strict=True):
        table = sensitivity_of_run(
            baseline.path,
            data,
            args.recipe,
            metric=args.metric,
            batches=args.batches,
            budget=args.budget,
        )
        proposal = propose(table, args.budget)
        print(f"{arch} {split}: {proposal}")
        costs += [
            {"arch": arch, "split": split, "layer": row.layer, "multiply_adds": row.multiply_adds}
            | {name: getattr(row, name) for name in ("kl", "loss", "gradient", "score")}
            | {"proposed": proposal.rules.of(row.layer) is None}
            for row in table.layers
        ]
        nothing, own = table.rules(()), _own(study, table)
        for name, recipe, rules in (
            ("nothing", nothing, nothing),
            ("the model's own", args.recipe, own),
            (f"proposed at {args.budget:g}", proposal.rules, proposal.rules),
        ):
            layers = " ".join(row.layer for row in table.layers if not rules.of(row.layer))
            lists.setdefault(name, []).append((recipe, layers, _share(table, rules)))
    for method in args.methods:
        for name, of_splits in lists.items():
            folders: list[RunFolder] = []
            for split, (recipe, *_) in zip(splits, of_splits, strict=True):
                several = ("baseline", recipe) if method == "ptq" else (recipe,)
                one = dataclasses.replace(
                    study, methods=(method,), recipes=several, splits=(split,)
                )
                folders += _folders(one, data, args.out)
            share = float(np.mean([share for *_, share in of_splits]))
            layers = _by_split({s: own for s, (_, own, _) in zip(splits, of_splits, strict=True)})
            yield _List(arch, method, name, layers, share, tuple(folders))


def _folders(study: Study, data: Data, out: Path) -> Sequence[RunFolder]:
    """The finished runs of a study of one recipe, in the order of its splits and seeds."""
    synthetic = is_synthetic(study.data)
    outcome = execute(study, data, out, name="keep-lists", synthetic=synthetic)
    if outcome.failures:
        raise ValueError("; ".join(f"{name}: {error}" for name, error in outcome.failures))
    return outcome.folders


def _exact(one: _List, lists: Sequence[_List]) -> np.ndarray:
    """The baselines' AUPRC of the same architecture."""
    (own,) = (b for b in lists if (b.arch, b.method) == (one.arch, "baseline"))
    return _auprc(own.folders)


def _scores(lists: Sequence[_List]) -> pd.DataFrame:
    """Scores of each test patient; twice for a list that is called by two names."""
    rows = []
    for one in lists:
        runs = [run for folder in one.folders if (run := read_run(folder.path)) is not None]
        rows.append(patient_table(runs).assign(label=one.label))
    return pd.concat(rows, ignore_index=True)


def _by_split(layers: Mapping[str, str]) -> str:
    """What each split keeps; once where all keep the same."""
    if len(set(layers.values())) == 1:
        return next(iter(layers.values())) or "none"
    return "; ".join(f"{split}: {own or 'none'}" for split, own in layers.items())


def _own(study: Study, table: SensitivityTable) -> Rules:
    """The rules of the model's own list."""
    from flax import nnx

    (arch,), (scale,) = study.archs, study.scales
    options = study.per_arch.get(arch, {}).get("model_options", {})
    model: Any = nnx.eval_shape(
        lambda: create(
            arch,
            scale,
            rngs=nnx.Rngs(0),
            **study.data.model_arguments(study.runs()[0]),
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


def _row(one: _List, exact: np.ndarray) -> dict[str, str]:
    """One line; the difference is that of the baseline of the same split and seed."""
    values = _auprc(one.folders)
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    each = " ".join(f"{value:+.3f}" for value in values - exact)
    return {
        "model": one.arch,
        "method": one.method,
        "kept in high precision": one.kept,
        "layers kept": one.layers,
        "multiply-adds in FP4": f"{one.share:.1%}",
        "test AUPRC": f"{values.mean():.3f}{spread}",
        "each run minus its baseline": each,
    }


VERB = Verb(command, Args, __doc__)
