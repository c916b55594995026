"""Families: runs that may be compared, because they differ in nothing but what a study varies."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

# What a study compares, and what is no part of the numbers.
_VARIED = ("arch", "scale", "recipe", "attention", "method", "split", "seed", "plugins")
# What an architecture or a method has its own values of.
_OWN = ("optimizer", "learning_rate", "weight_decay", "model_options")
_OF_METHOD = ("distill_weight", "distill_ratio", "temperature", "divergence")


def families(runs: "Sequence[RunResult]") -> dict[str, "list[RunResult]"]:
    """Runs on the same data with the same settings, by a name that follows from these.

    A folder may hold studies of several image sizes or lengths, or of one architecture with two
    learning rates; such runs are in different families. Runs that fit several, as a baseline that
    two settings of a distillation start from, are in each.

    Args:
        runs: finished, each once.
    """
    alike: dict[str, list[RunResult]] = {}
    for run in runs:
        alike.setdefault(_text(_shared(run)), []).append(run)
    found = {}
    for shared, members in alike.items():
        variants: dict[tuple, list[str]] = {}
        for run in members:
            known = variants.setdefault(_kind(run), [])
            known[:] = sorted({*known, _text(_own(run))})
        for i in range(max(map(len, variants.values()))):
            chosen = {kind: own[min(i, len(own) - 1)] for kind, own in variants.items()}
            own = [run for run in members if _text(_own(run)) == chosen[_kind(run)]]
            key = shared + (_text(sorted(chosen.items())) if i else "")
            digest = hashlib.sha256(key.encode()).hexdigest()[:8]
            found[f"{own[0].config.data.name}-{digest}"] = own
    return found


def _kind(run: "RunResult") -> tuple[str, str, str]:
    return run.config.arch, run.config.scale, run.config.method


def _shared(run: "RunResult") -> dict[str, Any]:
    record = run.config.to_json()
    for name in (*_VARIED, *_OWN, *_OF_METHOD):
        record.pop(name, None)
    return {**record, "digest": run.digest, "numerics": (run.environment or {}).get("numerics")}


def _own(run: "RunResult") -> dict[str, Any]:
    record = run.config.to_json()
    names = (*_OWN, *_OF_METHOD) if run.config.method == "qad" else _OWN
    return {name: record[name] for name in names}


def _text(record: Any) -> str:
    return json.dumps(record, sort_keys=True)
