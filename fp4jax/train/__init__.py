"""Training: configurations, compiled steps, the loop, checkpoints, run folders."""

from fp4jax.train.config import RunConfig as RunConfig
from fp4jax.train.evaluation import evaluate_folder as evaluate_folder
from fp4jax.train.listeners import (
    Guarded as Guarded,
    Listener as Listener,
    Listeners as Listeners,
)
from fp4jax.train.loop import DivergedError as DivergedError
from fp4jax.train.parts import split_of as split_of
from fp4jax.train.program import Program as Program
from fp4jax.train.rehearsal import dry_run as dry_run
from fp4jax.train.run import train as train
from fp4jax.train.state import Batch as Batch, TrainState as TrainState
