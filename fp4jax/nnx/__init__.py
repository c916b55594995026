"""Flax NNX: apply_recipe(model, recipe), fresh rounding keys per step, an account of the layers.

A quantized layer holds an operation in Flax's own injection slot (``dot_general``,
``conv_general_dilated``); nothing is patched. The operation is a module with a static recipe and,
if the recipe is stochastic, a :class:`RoundingKey`: a variable that ``refresh_keys`` refills
inside the train step. A trained model is packed to 4.5 bits per weight, and saved as such:

    model = apply_recipe(model, "2d+rht+sr")      operations in the slots
    apply_recipe(model, {"encoder": 5, ".*": None})    by rules, which remove_recipe takes back
    report(model, x)                              what really runs in FP4
    sensitivity(model, batches, recipe)           what each layer costs; keep_list(table, budget)
    refresh_keys(model, seed, step)               in the train step
    calibrate(model, batches)                     a static amax of x for each layer
    running_amax(model, 0.99); update_amax(model) the same, following the training
    packed = pack(model)                          codes and scales for float kernels
    save_packed(path, packed)                     a safetensors file
    load_packed(path, template)                   the packed model again
    decode(packed)                                weights decoded once, outputs the same
    unpack(packed)                                float kernels on the FP4 grid, no recipe
"""

from fp4jax.nnx.account import LayerReport as LayerReport, Report as Report, report as report
from fp4jax.nnx.amax_variables import (
    CalibratedAmax as CalibratedAmax,
    LearnedAmax as LearnedAmax,
    OperandAmax as OperandAmax,
)
from fp4jax.nnx.applying import apply_recipe as apply_recipe, remove_recipe as remove_recipe
from fp4jax.nnx.calibrating import calibrate as calibrate
from fp4jax.nnx.decoding import decode as decode
from fp4jax.nnx.keys import RoundingKey as RoundingKey, refresh_keys as refresh_keys
from fp4jax.nnx.operations import (
    AttentionOp as AttentionOp,
    ConvGeneralDilated as ConvGeneralDilated,
    ConvTransposeOp as ConvTransposeOp,
    DotGeneral as DotGeneral,
    EinsumOp as EinsumOp,
    Op as Op,
)
from fp4jax.nnx.packed_files import load_packed as load_packed, save_packed as save_packed
from fp4jax.nnx.packing import pack as pack
from fp4jax.nnx.running import (
    follows as follows,
    running_amax as running_amax,
    update_amax as update_amax,
)
from fp4jax.nnx.sensitivities import (
    SensitivityRow as SensitivityRow,
    SensitivityTable as SensitivityTable,
    keep_list as keep_list,
    sensitivity as sensitivity,
)
from fp4jax.nnx.static_x import (
    expect_static as expect_static,
    set_static_amaxes as set_static_amaxes,
    static_amaxes as static_amaxes,
)
from fp4jax.nnx.traced import Product as Product
from fp4jax.nnx.transposed import ConvTranspose as ConvTranspose
from fp4jax.nnx.unpacking import unpack as unpack
