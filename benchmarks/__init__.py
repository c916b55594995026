"""Benchmarks: every figure a ratio of one run."""
