"""Convolutions of any stride, dilation and layout as three GEMMs, quantized or not."""
