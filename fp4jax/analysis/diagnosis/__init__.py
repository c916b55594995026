"""Where a recipe hurts a model: operands, products, attention and gradients, layer by layer.

The tensors are real: one pass of the trained model in high precision records every quantized
layer's input x, weight w and output gradient g; the recipe's own quantizers then act on them. Batch
norm is in training mode, as in the backward pass that is diagnosed; dropout and augmentation are
off, so that two recipes see the same tensors.
"""

from fp4jax.analysis.diagnosis.attention import AttentionSums as AttentionSums
from fp4jax.analysis.diagnosis.counts import OperandSums as OperandSums, tally as tally
from fp4jax.analysis.diagnosis.figure import draw as draw
from fp4jax.analysis.diagnosis.gradients import gradient_noise as gradient_noise
from fp4jax.analysis.diagnosis.operands import operand_sums as operand_sums
from fp4jax.analysis.diagnosis.products import ProductSums as ProductSums
from fp4jax.analysis.diagnosis.recording import record as record
from fp4jax.analysis.diagnosis.run import diagnose_run as diagnose_run, patients_of as patients_of
from fp4jax.analysis.diagnosis.subject import Subject as Subject, of_run as of_run
from fp4jax.analysis.diagnosis.table import diagnose as diagnose, worst as worst
from fp4jax.analysis.diagnosis.terminal import print_worst as print_worst
