"""Benchmarks: every figure a ratio of one run. Freed memory is kept, PyTorch's processes' too."""

from fp4jax.memory import keep_pages

keep_pages()
