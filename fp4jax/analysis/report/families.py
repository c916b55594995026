"""Families: runs that may be compared, because they differ in nothing but what a study varies."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fp4jax.ops.rules import recipe_or_rules
from fp4jax.train.config import LATER
from fp4jax.train.scale_options import OF_SCALES, unused

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
    by_settings: dict[str, list[RunResult]] = {}
    for run in runs:
        by_settings.setdefault(_text(_shared(run)), []).append(run)
    alike: dict[str, list[RunResult]] = {}
    for text, members in by_settings.items():
        alike |= {text + more: some for more, some in _by_scales(members)}
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


def _by_scales(runs: "Sequence[RunResult]") -> "Iterator[tuple[str, list[RunResult]]]":
    """Runs by how they were calibrated and the like; one that cannot be, as baselines, fits all."""
    scales = [_scales(run) for run in runs]
    settings: list[dict[str, Any]] = []
    for own in sorted(scales, key=len, reverse=True):
        if not any(own.items() <= setting.items() for setting in settings):
            settings.append(own)
    for setting in settings:
        own = [run for run, its in zip(runs, scales, strict=True) if its.items() <= setting.items()]
        changed = {name: value for name, value in setting.items() if value != LATER[name]}
        yield _text(changed) if changed else "", own


def _scales(run: "RunResult") -> dict[str, Any]:
    """Of the options of static scales those that have an effect on a run."""
    config = run.config
    without = unused(recipe_or_rules(config.recipe), config.attention, config.method)
    return {name: getattr(config, name) for name in OF_SCALES if name not in without}


def _kind(run: "RunResult") -> tuple[str, str, str]:
    return run.config.arch, run.config.scale, run.config.method


def _shared(run: "RunResult") -> dict[str, Any]:
    record = run.config.to_json()
    for name in (*_VARIED, *_OWN, *_OF_METHOD, *OF_SCALES):
        record.pop(name, None)
    return {**record, "digest": run.digest, "numerics": (run.environment or {}).get("numerics")}


def _own(run: "RunResult") -> dict[str, Any]:
    record = run.config.to_json()
    names = (*_OWN, *_OF_METHOD) if run.config.method == "qad" else _OWN
    return {name: record[name] for name in names}


def _text(record: Any) -> str:
    return json.dumps(record, sort_keys=True)
