"""Train a 3D (or slice-wise) segmentation network on NIfTI volumes under a QAT recipe.

    python -m experiments.data --nifti brains --patients 12    # data to try it with
    python -m experiments.train_volumes --root brains --arch unet --patch-size 32 32 32
    python -m experiments.train_volumes --root BraTS2023 --recipe 2d+rht+sr --dtype bfloat16

The same as experiments.train --task volumes. The run's folder gets test_cases.csv and the test
cases' predictions as NIfTI files, too.
"""

from experiments.command import main
from experiments.options import by_task, from_config
from experiments.train import Args, command

if __name__ == "__main__":
    main(command, by_task(Args, "volumes"), __doc__, config=from_config(Args))
