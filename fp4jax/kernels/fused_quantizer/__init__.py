"""The quantizer as fused GPU kernels: see fused.py for what it does, dispatch.py for when."""
