"""Slow NumPy oracle for NVFP4 quantization and its three GEMMs, written from the specification only (see README.md)."""
