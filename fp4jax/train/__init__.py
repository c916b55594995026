"""Training: one trainer for slices and volumes, and the folders of runs.

run = RunConfig(Slices("lgg", image_size=128), arch="swin", recipe="2d+rht+sr")
(folder,) = train(run, run.data.open(Source(Path("kaggle_3m"))), Path("runs"))
evaluate_folder(folder.path, data)
"""

from fp4jax.train.arrays import OutOfMemoryError as OutOfMemoryError
from fp4jax.train.config import RunConfig as RunConfig
from fp4jax.train.devices import Devices as Devices
from fp4jax.train.evaluation import evaluate_folder as evaluate_folder, unseen as unseen
from fp4jax.train.fit import Saving as Saving
from fp4jax.train.folder import RunFolder as RunFolder
from fp4jax.train.group import Options as Options
from fp4jax.train.hosts import (
    Hosts as Hosts,
    LostProcessError as LostProcessError,
    joined as joined,
)
from fp4jax.train.lane import DivergedError as DivergedError
from fp4jax.train.listeners import (
    Guarded as Guarded,
    Listener as Listener,
    Listeners as Listeners,
)
from fp4jax.train.lock import BusyError as BusyError
from fp4jax.train.model import Model as Model
from fp4jax.train.program import Program as Program
from fp4jax.train.ray_hosts import RayHosts as RayHosts
from fp4jax.train.records import from_json as from_json
from fp4jax.train.rehearsal import dry_run as dry_run
from fp4jax.train.run import train as train, train_together as train_together
from fp4jax.train.signals import Terminated as Terminated
from fp4jax.train.slices import SliceData as SliceData, Slices as Slices
from fp4jax.train.state import Batch as Batch, TrainState as TrainState
from fp4jax.train.task import (
    Data as Data,
    Defaults as Defaults,
    Examples as Examples,
    Feed as Feed,
    Monitor as Monitor,
    Source as Source,
    Task as Task,
    register_task as register_task,
    tasks as tasks,
)
from fp4jax.train.trained import Trained as Trained, read_trained as read_trained
from fp4jax.train.volumes import VolumeData as VolumeData, Volumes as Volumes

register_task("slices", Slices)
register_task("volumes", Volumes)
