"""Slow NumPy oracle for NVFP4 and its three GEMMs, written from the specification (README.md)."""
