"""Train a 3D (or slice-wise) segmentation network on NIfTI volumes under a QAT recipe.

    fp4jax data --nifti brains --patients 12    # data to try it with
    fp4jax train-volumes --root brains --arch unet --patch-size 32 32 32
    fp4jax train-volumes --root BraTS2023 --recipe 2d+rht+sr --dtype bfloat16

The same as fp4jax train --task volumes. The run's folder gets test_cases.csv and the test
cases' predictions as NIfTI files, too.
"""

from fp4jax.cli.command import Verb
from fp4jax.cli.options import by_task, from_config
from fp4jax.cli.verbs.train import Args, command

VERB = Verb(command, by_task(Args, "volumes"), __doc__, config=from_config(Args))
