"""The version, which the package's metadata and the records of runs are made from."""

__version__ = "0.1.0"

#: Version of the numerics, a part of every run's id. Raise it with each change after which a
#: quantizer, a model or a training step gives other bits: runs of before are then other runs.
NUMERICS = 1
