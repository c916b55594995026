"""Runs that look finished without having been trained."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from fp4jax.train import Data, Program, RunConfig
from fp4jax.train.best import write_best
from fp4jax.train.run import member_of


def finished(root: Path, config: RunConfig, data: Data, split: Any = None) -> Path:
    """What a finished run leaves behind, without the training."""
    run = member_of(config, data, root, split)
    record = {**dataclasses.asdict(run.split), "contents": dict(data.contents)}
    run.folder.create(run.identity, record, {})
    state = Program(config, len(data.channels), len(data.regions)).start(config.seed)
    write_best(run.folder.path, jax.tree.map(lambda a: a * 1.5, (state.params, state.stats)))
    run.folder.write_summary({"threshold": 0.5, "best_epoch": 1})
    return run.folder.path
