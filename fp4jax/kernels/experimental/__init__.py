"""Kernels that no hardware has run: nothing dispatches to them unless they are asked for by name.

They are compiled and interpreted in tests (marked slow), and have to pass a check at first use.
"""
