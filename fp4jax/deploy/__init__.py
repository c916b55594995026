"""Deployment: a trained model in the form that another runtime reads, checked before it is there.

account = export("runs/swin_4m_2d-rht-sr_...", "onnx-portable", "swin.onnx")
print(account)
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
