"""Variables that hold the amax of a layer's x."""

from flax import nnx


class OperandAmax(nnx.Variable):
    """A statistic of a layer's x: like batch norm's it is saved, and no gradient reaches it."""


class CalibratedAmax(OperandAmax):
    """The static amax of a layer's x, float32 (*stack): what its tensor scale is made from."""


class LearnedAmax(nnx.Param):
    """The amax of a layer's x as a parameter, float32 (*stack); 0: not known yet."""
