"""The version, which the package's metadata and the records of runs are made from."""

__version__ = "0.1.0"
