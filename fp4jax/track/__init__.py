"""Trackers: runs shown where a laboratory looks at all its runs.

with tracking(["tensorboard", "mlflow:http://host:5000"], Path("runs")) as listeners:
    train(run, data, Path("runs"), options=Options(Listeners(listeners)))
"""

from fp4jax.track.in_mlflow import Mlflow as Mlflow
from fp4jax.track.in_tensorboard import TensorBoard as TensorBoard
from fp4jax.track.in_wandb import Wandb as Wandb
from fp4jax.track.listener import Tracking as Tracking, tracking as tracking
from fp4jax.track.protocol import Log as Log, State as State, Tracked as Tracked, Tracker as Tracker
from fp4jax.track.registry import register_tracker as register_tracker, tracker as tracker

register_tracker("tensorboard", TensorBoard)
register_tracker("mlflow", Mlflow)
register_tracker("wandb", Wandb)
