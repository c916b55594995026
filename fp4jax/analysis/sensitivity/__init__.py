"""Which layers of a trained run a recipe hurts, each quantized alone, and which to keep.

What :func:`fp4jax.nnx.sensitivity` measures, on batches of the run's training patients, with its
loss and its AUPRC; written into the run's folder with a figure.
"""

from fp4jax.analysis.sensitivity.figure import draw as draw
from fp4jax.analysis.sensitivity.of_run import sensitivity_of_run as sensitivity_of_run
from fp4jax.analysis.sensitivity.proposal import (
    Proposal as Proposal,
    label as label,
    propose as propose,
)
