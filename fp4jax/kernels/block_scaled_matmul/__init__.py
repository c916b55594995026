"""Products of arrays or QTensors with QTensors, and the choice of who computes them."""
