"""Packed models as ONNX files: from the trace of a model, by one rule per primitive."""
