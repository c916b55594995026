"""Deployment: a trained model in the form that another runtime reads, checked before it is there.

account = export("runs/swin_4m_2d-rht-sr_...", "onnx-portable", "swin.onnx")
print(account)

And what a target really runs, before any training: ``target_table(model, "tensorrt", x)``.
"""

from fp4jax.deploy.account import Account as Account, LayerRow as LayerRow
from fp4jax.deploy.card import target as _card
from fp4jax.deploy.checkpoints import target as _checkpoints
from fp4jax.deploy.checkpoints.reading import (
    ReadMatrix as ReadMatrix,
    read_checkpoint as read_checkpoint,
    read_matrices as read_matrices,
)
from fp4jax.deploy.exporting import export as export
from fp4jax.deploy.monai import target as _monai
from fp4jax.deploy.onnx import target as _onnx
from fp4jax.deploy.runtimes import known as _known
from fp4jax.deploy.runtimes.choosing import recipe_for as recipe_for
from fp4jax.deploy.runtimes.emulating import as_on as as_on
from fp4jax.deploy.runtimes.mode import Mode as Mode
from fp4jax.deploy.runtimes.rule import (
    Case as Case,
    Rule as Rule,
    Runtime as Runtime,
    get_runtime as get_runtime,
    register_runtime as register_runtime,
    runtime_names as runtime_names,
)
from fp4jax.deploy.runtimes.scoring import evaluate_on as evaluate_on
from fp4jax.deploy.runtimes.table import (
    TargetRow as TargetRow,
    TargetTable as TargetTable,
    target_table as target_table,
)
from fp4jax.deploy.scores import Score as Score
from fp4jax.deploy.stablehlo import target as _stablehlo
from fp4jax.deploy.subject import Subject as Subject, read_subject as read_subject
from fp4jax.deploy.targets import (
    Options as Options,
    Target as Target,
    register_target as register_target,
    target_names as target_names,
)

for _target in (_onnx, _checkpoints, _stablehlo, _monai, _card):
    _target.register()
_known.register()
