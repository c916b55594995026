"""What quantization costs a model, layer by layer and operand by operand, and what to keep.

Every layer is quantized alone, the others stay in high precision. All of it runs in one compiled
program, whose argument says which operands are quantized: compiling a program for each layer would
take hours where this takes a minute.

    measuring   sensitivity(model, batches, recipe): the loop over layers and operands
    checks      what may be wrong with what it is given
    program     the compiled pass, with a switch for each operand of each layer
    measures    KL divergence of outputs, error of gradients
    table       the result, as text, CSV, JSON and rules
    budget      keep_list(table, budget): the layers to keep, by a knapsack
"""

from fp4jax.nnx.sensitivities.budget import keep_list as keep_list
from fp4jax.nnx.sensitivities.measuring import sensitivity as sensitivity
from fp4jax.nnx.sensitivities.table import (
    SensitivityRow as SensitivityRow,
    SensitivityTable as SensitivityTable,
)
