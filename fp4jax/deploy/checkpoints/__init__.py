"""Folders of safetensors as compressed-tensors and Model-Optimizer have them, both ways."""
